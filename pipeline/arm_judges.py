"""Stage `arm_judges`: write down for each arm which judge trains its re-ID models, and by which settings.

An arm may name another judge than the section reid. DVC's templates cannot say "of the judge that this arm
names, if it names one", so that each arm depends on a file of its own instead: a change of one judge reruns
the arms of that judge alone. Writes data/arm_judges/<arm>.json.
"""

from pipeline.artifacts import ARM_JUDGES
from pipeline.params import load_params
from pipeline.runtime.outputs import atomic, write_json
from pipeline.runtime.stage import command_line, stage_main


def main() -> None:
    """Run the stage."""
    params = load_params()
    with atomic(ARM_JUDGES) as folder:
        folder.mkdir()
        for name, arm in params.arms.items():
            changes = params.judges[arm.judge].model_dump(mode="json") if arm.judge else {}
            write_json({"judge": arm.judge, "settings": changes}, folder / f"{name}.json")


if __name__ == "__main__":
    command_line("arm_judges", __doc__).parse_args()
    stage_main(main)
