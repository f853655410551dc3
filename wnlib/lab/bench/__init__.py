"""How fast training is: beside the usual script, by configuration, as it grows, and around it."""

import time
from collections.abc import Sequence
from typing import Any

import torch

from wnlib.data import Cifar10
from wnlib.lab.bench.around import feed
from wnlib.lab.bench.compare import compare_configurations, compare_steps, growth
from wnlib.lab.bench.profile import profile_steps
from wnlib.lab.bench.timing import Say
from wnlib.train import provenance


def bench(
    data: Cifar10,
    device: torch.device,
    sections: Sequence[str] | None = None,
    *,
    widths: Sequence[int] = (24, 96),
    rounds: int = 5,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Measure the sections, and say on what; numbers have four digits.

    What is compared is measured in turns. Times are medians over the rounds; a ratio is the
    median of the rounds' ratios.

    Args:
        data: its images are trained on; its size decides what the section "data" costs.
        sections: of `SECTIONS`; all by default.
        widths: of the networks.
        rounds: measurements of each, after one that warms up; three times as many of the
            configurations, which differ by little, half as many in "growth" and "profile".
        say: told what is being measured, in one line.

    Raises:
        ValueError: a width or a number of rounds below 1.
    """
    if min(widths) < 1 or rounds < 1:
        raise ValueError("widths and rounds are whole numbers from 1 up")
    start = time.perf_counter()
    result: dict[str, Any] = {"version": 1, "provenance": provenance(data, device)}
    for name in sections or SECTIONS:
        result[name] = SECTIONS[name](widths, data, device, rounds, say)
    result["provenance"]["wall_seconds"] = time.perf_counter() - start
    return _rounded(result)


SECTIONS = {
    "steps": lambda widths, data, device, rounds, say: [
        compare_steps(w, data, device, rounds=rounds, say=say) for w in widths
    ],
    "configurations": lambda widths, data, device, rounds, say: [
        compare_configurations(w, data, device, rounds=3 * rounds, say=say) for w in widths
    ],
    "growth": lambda widths, data, device, rounds, say: growth(
        min(widths), max(widths), data, device, rounds=-(-rounds // 2), say=say
    ),
    "data": lambda widths, data, device, rounds, say: feed(
        data, device, max(widths), rounds=rounds, say=say
    ),
    "profile": lambda widths, data, device, rounds, say: [
        profile_steps(w, data, device, rounds=-(-rounds // 2), say=say) for w in widths
    ],
}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
