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
        try:
            with self.file.open("a") as file:
                file.write(
                    "\n" + json.dumps({"step": step, **values})
                )  # a line that a kill cut off ends here
        except OSError as error:
            error.filename = str(self.file)  # "No space left on device" does not say where
            raise

    def table(self, points: int = 200) -> pd.DataFrame:
        """At most `points` rows, each the mean of equally many steps; `step` is the last of them."""
        rows = []
        for line in self.file.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue  # empty, or cut off by a kill: the resumed run took the step again
        steps = pd.DataFrame(rows).drop_duplicates("step", keep="last").sort_values("step")
        size = -(-len(steps) // points)
        means = steps.groupby((steps.step - 1) // size).agg({**dict.fromkeys(steps, "mean"), "step": "max"})
        return means.reset_index(drop=True)
