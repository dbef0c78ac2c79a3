"""Stage `world`: render the embedded data set that stands in for Market-1501."""

from pathlib import Path

from pipeline.cli import command_line
from pipeline.files import stage_main
from pipeline.params import load_params
from pipeline.workers import available_cores
from pipeline.world.dataset import build
from pipeline.world.settings import WorldSettings

ROOT = Path("data/world")


def main() -> None:
    """Render the world of params.yaml to data/world."""
    params = load_params()
    size = {"height": params.dataset.height, "width": params.dataset.width}
    settings = WorldSettings(**params.world.model_dump(), **size)
    build(settings, ROOT, available_cores())


if __name__ == "__main__":
    command_line("world", __doc__).parse_args()
    stage_main(main)
