"""Chapter 13's typed numbers, each from its record, and what its advice says that it rests on."""

import json
import re
from pathlib import Path
from statistics import fmean

import pytest
from beyond import plots
from scipy.stats import tukey_hsd

BOOK = Path(__file__).parent.parent.parent / "book"


@pytest.fixture(scope="module")
def said() -> str:
    cells = json.loads((BOOK / "13-what-to-use.ipynb").read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return text.replace("\u00a0", " ")


@pytest.fixture(scope="module")
def gains(beside) -> dict:
    return {(one.task.split(",")[0], one.method): one for one in beside("gains").fair()}


def test_rows_say_what_they_rest_on(said: str) -> None:
    table = said.split("| You have |")[1].split("\n\n")[0]
    rests = [row.split("|")[3] for row in table.splitlines()[2:]]
    assert len(rests) > 10
    assert all(re.match(r" \*\*(measured here(, .+)?|reasoned|custom)\*\*", each) for each in rests)


def test_cifar(said: str, gains: dict, beside) -> None:
    wn, bn = (gains["CIFAR-10", name] for name in ("weight norm", "batch norm"))
    both = gains["CIFAR-10", "WN + mean-only BN"]
    assert f"Each ends {bn.gain:.1f} points below" in said
    assert f"{bn.gain:.1f} points below the plain network (95 %: {bn.low:.1f} to" in said
    assert f"to {bn.high:.1f}), and {bn.gain - wn.gain:.1f} below weight norm" in said
    ends = [f"{x:.1f}" for one in (bn, both) for x in (one.gain, one.low, one.high)]
    assert ends[:3] == ends[3:]
    slow = beside("gains").at_rate(0.0003)["none"].mean()
    ours = wn.plain - wn.gain
    assert f"ahead by {slow - ours:.1f} points on CIFAR-10" in said
    assert f"rate {wn.gain:.1f} point and" in said


def test_beyond(said: str, gains: dict) -> None:
    draw, vae = plots.grid("draw"), plots.grid("vae")
    told = draw.gain(("wn-unit", 0.001), ("small", 0.001))[0]
    one = gains["DRAW", "weight norm"]
    assert f"by {told:.0f} nats in DRAW" in said
    assert f"and {one.gain:.1f} nats are left" in said
    assert one.low < 0 < one.high
    one = gains["VAE", "weight norm"]
    assert f"ends {-one.gain:.1f} nats behind (95 %: {-one.high:.1f} to {-one.low:.1f})" in said
    gain, half = vae.gain(("wn-init", 0.002), ("plain-init", 0.002))
    assert f"at the paper's rate {gain:.1f} ± {half:.1f} nats ahead of a plain network" in said
    assert vae.mean("wn-init", 0.02) < 543 < min(vae.mean(s, 0.02) for s in ("plain", "plain-init"))
    gain, half = vae.gain(("wn-init", 0.006), ("plain-init", 0.006))
    assert abs(gain) < half
    one = gains["Q-network", "weight norm"]
    assert f"{one.gain:+.1f} ± {one.high - one.gain:.1f} bricks" in said
    one = gains["Policy", "WN + mean-only BN"]
    assert f"{one.gain:.1f} ± {one.high - one.gain:.1f} points ahead" in said


def test_rates_at_an_edge(said: str) -> None:
    """The text names the methods whose best rate is the least or the largest that was tried."""
    assert (
        "in DRAW those of both sides, in the VAE weight norm's, and for the policy those of weight "
        "norm, batch norm, mean-only BN and WN + mean-only BN" in said
    )
    for name, at_edge in (
        ("draw", ("wn-unit", "unit")),
        ("vae", ("wn-init",)),
        ("policy", ("wn-small", "bn-he", "mobn-he", "wn_mobn-he")),
    ):
        grid = plots.grid(name)
        for start in at_edge:
            _, rate = grid.best(start)
            assert rate in (min(grid.curves[start]), max(grid.curves[start]))


def test_small_minibatches(said: str) -> None:
    rows = json.loads((BOOK / "records" / "small-batches.json").read_text())["rows"]
    errors = {(r["method"], r["size"]): [100 * e for e in r["test"]] for r in rows}
    methods, sizes = (list(dict.fromkeys(column)) for column in zip(*errors, strict=True))

    def told(size: int, worse: str, better: str) -> tuple[str, str]:
        found = tukey_hsd(*(errors[name, size] for name in methods))
        pair = methods.index(worse), methods.index(better)
        ends = found.confidence_interval()
        low, high = ends.low[pair], ends.high[pair]
        return f"{found.statistic[pair]:.1f}", f"{low:.1f} to {high:.1f}"

    (two, ends), (four, ends4) = (told(size, "batch norm", "plain") for size in (2, 4))
    assert f"{two} points behind plain (95 %: {ends}), with four {four} points ({ends4})" in said
    assert f"{two} points behind the plain network with two images (95 %: {ends})" in said
    both, ends = told(128, "weight norm", "WN + mean-only BN")
    assert f"With 128 images it ends {both} points below weight norm alone ({ends})" in said
    group, ends = told(128, "group norm", "batch norm")
    assert f"With 128 images it ends {group} points behind batch norm ({ends})" in said
    behind = fmean(errors["batch norm", 8]) - fmean(errors["plain", 8])
    assert f"the highest mean, {behind:.1f} points behind plain, but no two" in said
    assert "All five end higher with 128 images than with 32" in said
    assert all(fmean(errors[name, 128]) > fmean(errors[name, 32]) for name in methods)
    more = {
        r["size"]: 100 * (fmean(r["test, running"]) - fmean(r["test"]))
        for r in rows
        if r["method"] == "batch norm"
    }
    assert f"{more[2]:.1f} points higher with two images, {more[4]:.1f} with four" in said
    assert all(abs(more[size]) < 0.25 for size in sizes if size > 4)
