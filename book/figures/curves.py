"""Training curves of any recorded runs, and of those still in training."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

import traitlets
from wnlib.lab.records import Row, Run
from wnlib.layers import Norm
from wnlib.training import Recipe, state_after

from figures.base import Figure, rounded
from figures.plots import Plot, plot_test_error
from figures.train import panel_script

METRICS = ("train_loss", "train_error", "test_loss", "test_error")

RACE = (
    "Recorded epochs, replayed: drag the bar to any of them. The axis follows those who lead; the "
    "table ranks them. A run that diverges leaves the track, and has no place."
)


class FiveCurves(Figure):
    """Training curves: which run is lowest, when, by how much, and how sure that is.

    Runs of one source that share all but the seed are one curve, their mean, with a band from the
    lowest to the highest. A run in training grows by `add`::

        curves = FiveCurves([], window=0)
        display(curves)
        for recipe in recipes:
            for row in Training(recipe, data).epochs():
                curves.add(recipe, row)

    Args:
        runs: what to draw; or such by the name that their source is to have, as in
            ``{"the report": load_runs(...), "yours": load_runs(...)}``.
        traits: the first state.

    Attributes:
        metric: "train_loss", "train_error", "test_loss" or "test_error".
        whole: the y-axis shows all values, not only the region where the curves differ.
        window: of Savitzky and Golay's smoothing, in epochs, odd; 0 for none; None for 21 where a
            run has 100 epochs or more, which it would bend less, and none where it has fewer.
        at: the epoch at which the curves are read off; None for the end.
        hidden_norms: configurations that are switched off.
        hidden_sources: sources that are switched off.
        mode: "curves"; "race", to bet on one and watch them run, where each source is a heat of its
            own, first the first; or "play", to watch them run, after which they are curves.
        bet: on whom, or "".
        epoch: where the race stands; None for its end.
        speed: of the race; 1 takes sixteen seconds.
        train: offer to train here, in the page (see `train.js`); only a press loads what does.
    """

    script = "curves"

    metric = traitlets.Enum(METRICS, "test_error").tag(sync=True)
    whole = traitlets.Bool(False).tag(sync=True)
    window = traitlets.Int(None, min=0, max=101, allow_none=True).tag(sync=True)
    at = traitlets.Float(None, allow_none=True).tag(sync=True)
    hidden_norms = traitlets.List(traitlets.Enum([n.value for n in Norm])).tag(sync=True)
    hidden_sources = traitlets.List(traitlets.Unicode()).tag(sync=True)
    mode = traitlets.Enum(("curves", "race", "play"), "curves").tag(sync=True)
    bet = traitlets.Enum(["", *(n.value for n in Norm)], "").tag(sync=True)
    epoch = traitlets.Float(None, allow_none=True).tag(sync=True)
    speed = traitlets.Float(1.0, min=0.1, max=10.0).tag(sync=True)
    train = traitlets.Bool(False).tag(sync=True)
    title = traitlets.Unicode("Which curve is lowest, where, and by how much?").tag(sync=True)
    caption = traitlets.Unicode(
        "Move along the curves with the pointer or the arrow keys: the table ranks what each run "
        "had recorded there, at first at its end. Faint lines are the recorded values where "
        "smoothing is on. The lowest epoch of a test error is a choice made with the test set; the "
        "last is not."
    ).tag(sync=True)

    def __init__(self, runs: Iterable[Run] | Mapping[str, Iterable[Run]], **traits: Any) -> None:
        if isinstance(runs, Mapping):
            named = cast("Mapping[str, Iterable[Run]]", runs)
            runs = [
                dataclasses.replace(run, source=name)
                for name, group in named.items()
                for run in group
            ]
        self.runs = list(runs)
        first: dict[str, Any] = {"data": self._data()}
        if traits.get("mode") == "race":
            first["caption"] = RACE
            if self.runs:
                sources = list(dict.fromkeys(run.source for run in self.runs))
                first |= {"epoch": 0.0, "hidden_sources": sources[1:]}
        super().__init__(**first | traits)
        self.on_msg(self._load)

    def _load(self, _: Any, content: Any, buffers: Any) -> None:
        """Send the page the script that it asks for: a widget has no site to take it from."""
        if content == {"load": "train"}:
            self.send({"name": "train", "script": panel_script()})

    @traitlets.validate("window")
    def _odd(self, proposal: Any) -> int:
        window = proposal["value"]
        if window and window % 2 == 0:
            raise traitlets.TraitError(f"window is odd, or 0 for no smoothing, not {window}")
        return window

    def add(self, recipe: Recipe, row: Row, source: str = "yours") -> None:
        """Draw one more epoch of a run in training.

        A row of an epoch that is already there begins again from it, as after a stop.

        Args:
            recipe: of the run; it and the source say which run the row belongs to.
            row: as `wnlib.Training.epochs` yields it.
            source: the name of whose runs these are.

        Raises:
            ValueError: an epoch was left out.
        """
        mine = (run for run in self.runs if (run.recipe, run.source) == (recipe, source))
        run = next(mine, None)
        if row.epoch != 1 and (run is None or row.epoch > len(run.rows) + 1):
            there = len(run.rows) if run else 0
            raise ValueError(f"epoch {row.epoch} does not follow epoch {there}: add every row")
        if run is None:
            run = Run(recipe, source=source)
            self.runs.append(run)
        run.rows[row.epoch - 1 :] = [row]
        run.state = state_after(recipe, row)
        self.data = self._data()

    def _groups(self) -> list[tuple[Recipe, list[Run]]]:
        """The runs; those of one source that differ by nothing but the seed together."""
        curves: list[tuple[Recipe, list[Run]]] = []
        for run in self.runs:
            recipe, source = dataclasses.replace(run.recipe, seed=0), run.source
            mine = (g for known, g in curves if (known, g[0].source) == (recipe, source))
            group = next(mine, None)
            if group is None:
                curves.append((recipe, group := []))
            group.append(run)
        return curves

    def _data(self) -> dict[str, Any]:
        """What the front end draws: each group of runs as columns."""
        curves = self._groups()
        labels = _labels(curves)
        return {
            "curves": [
                {
                    "norm": recipe.norm.value,
                    "label": ", ".join(label),
                    "short": ", ".join(label[:1] + label[2:]),  # where all are of one source
                    "epochs": recipe.epochs,
                    "done": all(run.state != "interrupted" for run in group),
                    "runs": [_columns(run) for run in group],
                }
                for (recipe, group), label in zip(curves, labels, strict=True)
            ],
        }

    def picture(self) -> Plot:
        """The test errors of what is not switched off, smoothed as they are at first."""
        names = {
            id(run): curve["label"]
            for (_, group), curve in zip(self._groups(), self.data["curves"], strict=True)
            for run in group
        }
        runs = [
            run
            for run in self.runs
            if run.rows
            and run.norm not in self.hidden_norms
            and run.source not in self.hidden_sources
        ]
        one = len({run.source for run in runs}) == 1
        labels = [run.norm.label if one else names[id(run)] for run in runs]
        longest = max((len(run.rows) for run in runs), default=0)
        window = self.window if self.window is not None else 21 if longest >= 100 else 0
        options = {"window": window, "degree": 2} if window > 1 else {}
        return plot_test_error(runs, "Test error", smoothed=window > 1, names=labels, **options)


def _labels(curves: list[tuple[Recipe, list[Run]]]) -> list[list[str]]:
    """What tells each curve from the others: configuration, source, and as much as it takes."""
    sources = [group[0].source for _, group in curves]
    labels = []
    for (recipe, _), source in zip(curves, sources, strict=True):
        parts = [recipe.norm.label, source]
        others = zip(curves, sources, strict=True)
        rivals = [r for (r, _), s in others if (s, r.norm) == (source, recipe.norm)]
        for field in dataclasses.fields(Recipe):
            if len({getattr(rival, field.name) for rival in rivals}) > 1:
                value = getattr(recipe, field.name)
                shown = f"{value:g}" if isinstance(value, float) else str(value)
                parts.append(f"{field.name} {shown}")
        labels.append(parts)
    return labels


def _columns(run: Run) -> dict[str, Any]:
    """What was recorded, a list a column; a column with nothing in it is left out."""
    columns: dict[str, Any] = {"source": run.source, "state": run.outcome}
    for name in METRICS:
        values = [float(value) for value in run.column(name)]
        if any(map(math.isfinite, values)):
            # Errors of whole images, losses to six digits.
            columns[name] = rounded(values, 12 if name.endswith("error") else 6)
    return columns
