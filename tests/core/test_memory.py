"""What the lab keeps of the memory that a step frees, and what initialization takes."""

import subprocess
import sys

import pytest

linux = pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc and /proc")

LEFT = """
import resource, torch
import {module}

def resident():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * resource.getpagesize() / 1e6

before = resident()
[torch.ones(5_000_000) for _ in range(4)]  # 20 MB each, freed together
print(resident() - before)
"""

PEAK = """
import torch
from wnlib import ConvPoolCNNC, data_dependent_init_

def peak_mb():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if "VmHWM" in line)

model = ConvPoolCNNC("{norm}", 24)
data_dependent_init_(model, torch.randn(8, 3, 32, 32))
images = torch.randn(400, 3, 32, 32)
before = peak_mb()
data_dependent_init_(model, images)
print(peak_mb() - before)
"""


def _printed(code: str) -> list[float]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


@linux
def test_what_a_step_frees_is_kept_for_the_next():
    [left] = _printed(LEFT.format(module="wnlib"))
    [kept] = _printed(LEFT.format(module="wnlib.lab"))
    assert left < 10
    assert kept > 70


@linux
@pytest.mark.parametrize("norm", ["bn", "wn_mobn"])
def test_init_holds_few_copies_of_a_layer(norm):
    """At its best: what the allocator has not given back in time comes on top, by chance."""
    layer = 400 * 24 * 32 * 32 * 4 / 1e6  # MB, fp32
    grown = (_printed(PEAK.format(norm=norm))[0] for _ in range(4))
    assert any(layer < peak < 6 * layer for peak in grown)
