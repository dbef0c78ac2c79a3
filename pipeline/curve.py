"""Learning curves that a killed and resumed run does not tear."""

import json
from pathlib import Path

import pandas as pd


class Curve:
    """A learning curve in a file: steps that a resumed run takes again replace the old ones."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def log(self, step: int, values: dict[str, float]) -> None:
        """Append one step."""
        with self.file.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def table(self, points: int = 200) -> pd.DataFrame:
        """At most `points` rows, each the mean of equally many steps."""
        lines = self.file.read_text().splitlines()
        steps = pd.DataFrame(json.loads(line) for line in lines).drop_duplicates("step", keep="last")
        size = -(-len(steps) // points)
        return steps.groupby((steps.step - 1) // size).agg({**dict.fromkeys(steps, "mean"), "step": "max"})
