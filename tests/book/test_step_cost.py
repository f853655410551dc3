"""What a step costs: in turns, on the same images, in the form that chapter 6 reads."""

import json
from pathlib import Path

import pytest
import step_cost
import torch

from wnlib import Norm

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


def test_ways_take_turns_and_warm_up_unseen():
    log = []

    def way(name):
        while True:
            log.append(name)
            yield

    ways = {"a": way("a"), "b": way("b")}
    seconds = step_cost.take_turns(ways, CPU, rounds=2, count=2)
    assert "".join(log) == "aaabbb" * 3
    assert [len(each) for each in seconds.values()] == [2, 2]
    assert step_cost.ratio([1.0, 20.0, 9.0], [1.0, 10.0, 3.0]) == 2.0


def test_the_usual_script_trains_on_every_image(tiny):
    """Its loader's images are those of torchvision's transforms, in another order each epoch."""
    way = step_cost.usual_steps(2, tiny, CPU, workers=0)
    before = torch.get_rng_state()
    next(way)  # one minibatch of all forty
    next(way)
    assert not torch.equal(torch.get_rng_state(), before)


def test_the_record_has_the_form_that_the_chapter_reads(tiny, capsys):
    made = step_cost.measure(tiny, CPU, widths=(2,), growing=(1,), batches=(10,), rounds=1)
    path = Path(step_cost.__file__).parent / "records" / "bench.json"
    recorded = json.loads(path.read_text())
    for part in ("steps", "configurations"):
        assert made[part][0].keys() == recorded[part][0].keys()
    assert made["growth"].keys() == recorded["growth"].keys()
    assert set(made["provenance"]) >= set(recorded["provenance"])
    row = made["configurations"][0]
    assert list(row["ms"]) == [str(norm) for norm in Norm]
    assert row["over_none"]["none"] == 1.0
    step_cost.show(made)
    assert "width 2 " in capsys.readouterr().out
