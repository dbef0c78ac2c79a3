"""Stage `world`: render the embedded data set that stands in for Market-1501.

If dataset.root is another data set, it renders nothing but writes a note. With a folder and another seed it
renders another world, with other people and cameras, to test on (cross_datasets):
`python -m pipeline.world data/other_world --seed 1`.
"""

from pathlib import Path

from pipeline.artifacts import WORLD
from pipeline.params import load_params
from pipeline.runtime.outputs import atomic
from pipeline.runtime.stage import command_line, stage_main
from pipeline.runtime.workers import available_cores
from pipeline.world.dataset import build


def main() -> None:
    """Render the world of params.yaml to data/world, or another one to a new folder."""
    parser = command_line("world", __doc__)
    parser.add_argument("root", type=Path, nargs="?", default=WORLD, help="new folder for the world")
    parser.add_argument("--seed", type=int, help="seed of the world, in place of world.seed")
    arguments = parser.parse_args()
    if arguments.root != WORLD and arguments.root.exists():
        raise ValueError(f"{arguments.root} exists; give the path of a new folder, or remove it first")
    if arguments.seed is not None and not 0 <= arguments.seed < 2**32:
        raise ValueError(f"--seed is {arguments.seed}; expected at least 0 and less than 2**32")

    params = load_params()
    if arguments.root == WORLD and params.dataset.root != WORLD:
        # Another data set needs no world; the stage's output is a note.
        with atomic(WORLD) as folder:
            folder.mkdir()
            note = f"Nothing is rendered here: dataset.root in params.yaml is {params.dataset.root}.\n"
            (folder / "README.txt").write_text(note, encoding="utf-8")
        return

    world = params.rendered_world()
    if arguments.seed is not None:
        world = world.model_copy(update={"seed": arguments.seed})
    build(world, arguments.root, available_cores())


if __name__ == "__main__":
    stage_main(main)
