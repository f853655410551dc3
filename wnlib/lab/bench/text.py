"""What `wnlib.lab.bench.bench` measured, as plain tables."""

from collections.abc import Iterable, Mapping
from typing import Any


def bench_text(result: Mapping[str, Any]) -> str:
    """One table a section, with a line above it that says what it holds."""
    how = result["provenance"]
    where = f"on {how['device']}, {how['precision']}, {how['threads']} threads"
    texts = [text(result[section]) for section, text in _TEXTS.items() if section in result]
    return "\n\n".join([f"Medians, {where}.", *texts])


def _steps(rows: list[dict[str, Any]]) -> str:
    head = "Images a second of full training steps with weight norm:"
    cells = [
        [r["width"], f"{r['plain']:.0f}", f"{r['wnlib']:.0f}", f"{r['ratio']:.2f}"] for r in rows
    ]
    return _table(head, ["width", "usual script", "wnlib", "ratio"], cells)


def _configurations(rows: list[dict[str, Any]]) -> str:
    names = list(rows[0]["ms"])
    head = (
        "Milliseconds a step, and what each costs over none; torch_wn is torch's own weight norm:"
    )
    cells = []
    for r in rows:
        what = [r["width"], r["batch"]]
        cells.append([*what, *(f"{r['ms'][n]:.1f}" for n in names)])
        cells.append(["", "", *(f"{r['over_none'][n]:.3f}" for n in names)])
    return _table(head, ["width", "batch", *names], cells)


def _growth(parts: dict[str, list[dict[str, Any]]]) -> str:
    rows = [*parts["batch"], *parts["width"]]
    names = list(rows[0]["ms"])
    cells = [[r["width"], r["batch"], *(f"{r['ms'][n]:.1f}" for n in names)] for r in rows]
    head = "Milliseconds a step as batch size and width grow:"
    return _table(head, ["width", "batch", *names], cells)


def _data(values: dict[str, Any]) -> str:
    epoch, whitening, peak = values["epoch_s"], values["whitening_s"], values["peak_mb"]
    cells = [
        ["an epoch of batches, DataLoader", f"{epoch['dataloader']:.2f} s"],
        ["an epoch of batches, wnlib", f"{epoch['wnlib']:.2f} s"],
        ["whitening: fitted", f"{whitening['fit']:.1f} s"],
        ["whitening: applied", f"{whitening['apply']:.1f} s"],
        ["from the command to the end of the first step", f"{values['first_step_s']:.1f} s"],
        ["peak memory", "unknown" if peak is None else f"{peak:.0f} MB"],
    ]
    width = max(len(label) for label, _ in cells)
    lines = [f"{label:<{width}}{value:>10}" for label, value in cells]
    return "\n".join(["Around the steps:", "", *lines])


def _profile(rows: list[dict[str, Any]]) -> str:
    groups = list(next(iter(rows[0]["configurations"].values()))["ms"])
    cells = []
    for row in rows:
        for name, each in row["configurations"].items():
            over = each["over_convolution"]
            times = [f"{each['ms'][group]:.1f}" for group in groups]
            last = "-" if over is None else f"{over:.2f}"
            cells.append([row["width"], name, *times, f"{each['step_ms']:.1f}", last])
    head = (
        "Milliseconds by what takes them, under the profiler; a step without it, over its own "
        "convolutions:"
    )
    return _table(head, ["width", "", *groups, "step", "over"], cells)


def _table(head: str, names: list[str], cells: Iterable[list[Any]]) -> str:
    rows = [names, *([str(cell) for cell in row] for row in cells)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{c:>{w}}" for c, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([head, "", *lines])


_TEXTS = {
    "steps": _steps,
    "configurations": _configurations,
    "growth": _growth,
    "data": _data,
    "profile": _profile,
}
