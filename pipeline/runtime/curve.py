"""Learning curves that a killed and resumed run does not tear."""

import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.runtime.scratch import hold, release

LIVE = Path("dvclive")  # git ignores it; dvc.yaml lists what is plotted


class Curve:
    """A learning curve in a file: steps that a resumed run takes again replace the old ones.

    Args:
        file: File of the curve, one line per step; it belongs to one run.
        live: Name under which DVCLive shows the curve while it grows, to `dvc plots` and to the VS Code
            extension, as <name>/<value>; None does not show it. When several trainings run at the same time,
            only the first is shown: DVCLive keeps one file of the newest values.
        every: Steps between the points that are shown.
    """

    def __init__(self, file: Path, live: str | None = None, every: int = 1) -> None:
        self.file = file
        self.live = live
        self.every = every
        self._dvclive: Any = None

    def log(self, step: int, values: dict[str, float]) -> None:
        """Append one step."""
        line = "\n" + json.dumps({"step": step, **values})  # the newline ends a line that a kill cut off
        try:
            with self.file.open("a") as file:
                file.write(line)
        except OSError as error:
            error.filename = str(self.file)  # "No space left on device" does not say where
            raise
        if self.live and step % self.every == 0:
            with self._display():
                self._show(self.live, step, values)

    @contextmanager
    def _display(self) -> Iterator[None]:
        """Go on without the display when it fails: no result depends on it."""
        try:
            yield
        except (OSError, ValueError) as error:
            warnings.warn(f"{LIVE}: {error}; the curve is not shown any more, the run goes on", stacklevel=4)
            self.live = self._dvclive = None

    def _show(self, name: str, step: int, values: dict[str, float]) -> None:
        """Show one step; the first call starts the display."""
        if self._dvclive is None:
            self._start(name, step, values)
        if self._dvclive is None:
            self.live = None
            return
        self._dvclive.step = step
        for value, number in values.items():
            self._dvclive.log_metric(f"{name}/{value}", number)
        self._dvclive.sync()

    def _start(self, name: str, step: int, values: dict[str, float]) -> None:
        """Start DVCLive with the steps before this one, unless another training is shown."""
        from dvclive import Live  # here, because it takes 0.8 s and not every importer trains
        from scmrepo.exceptions import SCMError

        LIVE.mkdir(exist_ok=True)
        if not hold(LIVE, wait=False):
            return
        # DVCLive appends to its files. Write them anew, without the steps of another run and without those
        # that this run showed after its last checkpoint.
        folder = LIVE / "plots" / "metrics" / name
        shutil.rmtree(folder, ignore_errors=True)
        steps = self._steps()
        steps = steps[(steps.step < step) & (steps.step % self.every == 0)]
        if len(steps):
            folder.mkdir(parents=True)
            for value in values:
                steps[["step", value]].to_csv(folder / f"{value}.tsv", sep="\t", index=False)
        (LIVE / "metrics.json").unlink(missing_ok=True)  # a kill may have torn it, and nobody needs it
        # DVCLive asks git for the last commit, which a new repository does not have.
        with suppress(SCMError):
            self._dvclive = Live(str(LIVE), resume=True, dvcyaml=None, save_dvc_exp=False)

    def close(self) -> None:
        """Tell DVCLive that the run is over."""
        if self._dvclive is not None:
            with self._display():
                self._dvclive.end()
            release(LIVE)

    def table(self, points: int = 200, every: int = 1) -> pd.DataFrame:
        """Return at most `points` rows, each the mean of equally many steps; `step` is the last of them.

        Only steps that `every` divides count, and the last step of all.

        Raises:
            FileNotFoundError: The file was removed.
        """
        steps = self._steps()
        steps = steps[(steps.step % every == 0) | (steps.step == steps.step.max())]
        size = -(-len(steps) // points)
        means = steps.groupby(np.arange(len(steps)) // size).agg(
            {**dict.fromkeys(steps, "mean"), "step": "max"}
        )
        return means.reset_index(drop=True)

    def _steps(self) -> pd.DataFrame:
        """Read all steps, in their order; the newest line of a step counts."""
        if not self.file.is_file():
            raise FileNotFoundError(
                f"{self.file} is missing, but the training is done; remove {self.file.parent} to train again"
            )
        rows = []
        for line in self.file.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue  # empty, or cut off by a kill: the resumed run took the step again
        return pd.DataFrame(rows).drop_duplicates("step", keep="last").sort_values("step")
