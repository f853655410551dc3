"""A folder with another run, or without some of its files: one line, and nothing is overwritten."""

import dataclasses
import json

import pytest
from training import altered, refused, small, stop_after_two, timeless

from wnlib import train

pytestmark = pytest.mark.usefixtures("on_the_cpu", "one_thread")


def test_changed_recipes_are_refused(tiny, stopped):
    said = refused(small(lr=0.1, seed=3), tiny, stopped)
    changed = "lr 0.003, not 0.1, seed 0, not 3"
    assert said == f"{stopped} holds another run ({changed}); choose another folder"


def test_other_images_are_refused(tiny, stopped):
    other = dataclasses.replace(tiny, digest="other")
    said = refused(small(), other, stopped)
    assert said == f"{stopped} holds a run on other images; choose another folder"


def test_missing_checkpoint_is_refused(tiny, stopped):
    (stopped / "checkpoint.pt").unlink()
    said = refused(small(), tiny, stopped)
    assert said == (
        f"{stopped} has 2 epochs but no checkpoint.pt to go on from; "
        "choose another folder, or delete this one to start again"
    )


OTHERS = {
    "rows": lambda s: s["rows"][0].__setitem__(2, s["rows"][0][2] + 1e-9),
    "seed": lambda s: s["run"]["recipe"].update(seed=1),
    "data": lambda s: s["run"].update(data="other"),
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_checkpoints_of_another_run_are_refused(tiny, stopped, change):
    path = stopped / "checkpoint.pt"
    path.write_bytes(altered(change)(path.read_bytes()))
    said = refused(small(), tiny, stopped)
    assert said.startswith(f"{path} belongs to another run; choose another folder")


def test_copied_checkpoint_is_refused(tiny, stopped, tmp_path):
    for other in (small(seed=1), small(width=5), small("bn"), small(epochs=5)):
        stop_after_two(other, tiny, tmp_path / "other")
        (tmp_path / "other" / "checkpoint.pt").replace(stopped / "checkpoint.pt")
        said = refused(small(), tiny, stopped)
        assert said.startswith(f"{stopped}/checkpoint.pt belongs to another run; choose")
        for path in (tmp_path / "other").iterdir():
            path.unlink()


@pytest.mark.parametrize("left", [["checkpoint.pt"], ["history.csv"], []])
def test_what_a_lost_record_leaves_is_not_overwritten(tiny, stopped, whole, left):
    for name in {"run.json", "history.csv", "checkpoint.pt"} - {*left}:
        (stopped / name).unlink()
    if left:
        said = refused(small(), tiny, stopped)
        assert said == f"{stopped} has lost its run.json, but not {left[0]}; choose another folder"
    else:
        assert timeless(train(small(), tiny, stopped)) == timeless(whole)


@pytest.mark.parametrize("key", ["lr", "seed", "epochs"])
def test_record_altered_together_with_the_command_is_found(tiny, stopped, key):
    """The record says what is asked for, but it is not what was trained."""
    path = stopped / "run.json"
    record = json.loads(path.read_text())
    record["recipe"][key] = {"lr": 0.01, "seed": 3, "epochs": 8}[key]
    path.write_text(json.dumps(record))
    said = refused(small(**{key: record["recipe"][key]}), tiny, stopped)
    assert "checkpoint.pt belongs to another run" in said
