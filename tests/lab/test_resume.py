"""A training that was stopped or killed goes on exactly, whatever of its record came back."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from training import altered, contents, small, timeless

import wnlib
from wnlib import Norm, graph, train
from wnlib.lab import Run, resume

pytestmark = pytest.mark.usefixtures("on_the_cpu", "one_thread")
module = import_module("wnlib.train")  # the name in the package is the function
ROOT = Path(wnlib.__file__).parents[1]


# --- exact resume


@pytest.mark.parametrize("epochs", [0, 1, 2, 3])
def test_rows_are_the_same_after_a_stop(tiny, tmp_path, whole, epochs):
    first = train(small(), tiny, tmp_path)
    for _ in range(epochs):
        next(first)
    first.close()
    assert Run.load(tmp_path).state == "interrupted"
    rows = list(train(small(), tiny, tmp_path))
    assert timeless(rows) == timeless(whole)
    assert Run.load(tmp_path).rows == rows
    assert Run.load(tmp_path).state == "finished"


@pytest.mark.parametrize("norm", list(Norm))
def test_every_configuration_goes_on_exactly(tiny, tmp_path, norm):
    recipe = small(norm, epochs=3, width=2, noise="uniform", lr=0.003)
    expected = list(train(recipe, tiny))
    for _ in range(3):  # stopped after every epoch
        rows = train(recipe, tiny, tmp_path)
        recorded = len(Run.load(tmp_path).rows)
        got = [next(rows) for _ in range(recorded + 1)]
        rows.close()
    assert timeless(got) == timeless(expected)
    assert Run.load(tmp_path).state == "finished"


@pytest.mark.parametrize("step", [0, 3, 6])
def test_stop_within_an_epoch_leaves_a_valid_record(tiny, tmp_path, whole, monkeypatch, step):
    steps = []
    real = graph.training_step

    def stop(*arguments):
        steps.append(1)
        if len(steps) == step + 1:
            raise KeyboardInterrupt
        return real(*arguments)

    torch.manual_seed(7)
    state = torch.get_rng_state()
    with monkeypatch.context() as patch:
        patch.setattr(graph, "training_step", stop)
        with pytest.raises(KeyboardInterrupt):
            list(train(small(), tiny, tmp_path))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(Run.load(tmp_path).rows) == step // 4
    assert timeless(train(small(), tiny, tmp_path)) == timeless(whole)


@pytest.mark.parametrize("epoch", [1, 2, 4])
def test_stop_between_record_and_checkpoint(tiny, tmp_path, whole, monkeypatch, epoch):
    saved = []
    real = module.save_checkpoint

    def stop(*arguments):
        saved.append(1)
        if len(saved) == epoch:
            raise KeyboardInterrupt
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "save_checkpoint", stop)
        with pytest.raises(KeyboardInterrupt):
            list(train(small(), tiny, tmp_path))
    assert len(Run.load(tmp_path).rows) == epoch
    assert timeless(train(small(), tiny, tmp_path)) == timeless(whole)


def test_rows_are_the_same_after_any_kill(tmp_path):
    """Killed at twenty random moments, and within each of the first writes at three points."""
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "killing.py", tmp_path],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    kills = json.loads(done.stdout)
    assert kills["random"] == 20
    assert kills["write"] == 30
    assert kills["strays"] > 15  # parts of files were there to be cleared away


def test_finished_runs_are_replayed(tiny, tmp_path, monkeypatch):
    rows = list(train(small(epochs=1), tiny, tmp_path))
    before = contents(tmp_path)
    monkeypatch.setattr(module, "prepare", lambda *_: pytest.fail("trained again"))
    assert list(train(small(epochs=1), tiny, tmp_path)) == rows
    (tmp_path / "checkpoint.pt").unlink()  # not needed any more
    assert list(train(small(epochs=1), tiny, str(tmp_path))) == rows
    del before["checkpoint.pt"]
    assert contents(tmp_path) == before


def test_wall_seconds_add_up_over_stops(tiny, tmp_path):
    first = train(small(epochs=2), tiny, tmp_path)
    next(first)
    first.close()
    rows = list(train(small(epochs=2), tiny, tmp_path))
    wall = Run.load(tmp_path).provenance["wall_seconds"]
    assert wall == pytest.approx(sum(row.seconds for row in rows))


# --- record and checkpoint apart, as a synchronized folder may bring them back


def lose_rows(folder, left):
    path = folder / "history.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[: left + 1]))


@pytest.mark.parametrize("left", [0, 1])
def test_checkpoint_ahead_of_the_history_is_gone_on_from(tiny, stopped, whole, monkeypatch, left):
    lose_rows(stopped, left)
    monkeypatch.setattr(module, "data_dependent_init_", lambda *_: pytest.fail("started again"))
    rows = list(train(small(), tiny, stopped))
    assert timeless(rows) == timeless(whole)
    assert Run.load(stopped).rows == rows


@pytest.mark.parametrize("recipe", [small(epochs=2), small("none", lr=1e20, epochs=9)])
def test_ended_checkpoint_brings_the_record_up_to_it(tiny, tmp_path, monkeypatch, recipe):
    expected = list(train(recipe, tiny, tmp_path))
    ended = Run.load(tmp_path)
    Run(recipe, expected[:-1], provenance=ended.provenance).save(tmp_path)
    monkeypatch.setattr(module, "prepare", lambda *_: pytest.fail("trained again"))
    rows = list(train(recipe, tiny, tmp_path))
    assert timeless(rows) == timeless(expected)
    assert repr(Run.load(tmp_path)) == repr(ended)


def test_older_checkpoint_is_gone_on_from(tiny, tmp_path, whole):
    rows = train(small(), tiny, tmp_path)
    next(rows)
    old = (tmp_path / "checkpoint.pt").read_bytes()
    next(rows), next(rows)
    rows.close()
    (tmp_path / "checkpoint.pt").write_bytes(old)
    assert timeless(train(small(), tiny, tmp_path)) == timeless(whole)


def test_run_goes_on_in_another_precision(tiny, stopped, monkeypatch):
    """One from bf16 has no scale for gradients; one from fp16 brings its own."""
    state = torch.load(stopped / "checkpoint.pt", weights_only=True)
    assert state["scaler"] == {}
    for each in (module, wnlib.train):
        monkeypatch.setattr(each, "autocast_type", lambda _: torch.float16)
    rows = train(small(), tiny, stopped)
    assert [next(rows).epoch for _ in range(3)] == [1, 2, 3]
    rows.close()
    path = stopped / "checkpoint.pt"
    scale = torch.load(path, weights_only=True)["scaler"]["scale"]
    path.write_bytes(
        altered(lambda s: s["scaler"].update(scale=scale / 8, growth_factor=9.0))(path.read_bytes())
    )
    real, scales = graph.training_step, []

    def step(model, optimizer, scaler, x, y):
        result = real(model, optimizer, scaler, x, y)
        scales.append((scaler.get_scale(), scaler.get_growth_factor()))
        return result

    monkeypatch.setattr(graph, "training_step", step)
    assert len(list(train(small(), tiny, stopped))) == 4
    assert scales[0] == (scale / 8, 2.0)


def test_recipes_of_numpy_numbers_go_on(tiny, tmp_path):
    """As from a sweep over np.logspace."""
    recipe = small(lr=np.float64(0.01), sigma=np.float64(0.1), epochs=2)
    rows = train(recipe, tiny, tmp_path)
    next(rows)
    rows.close()
    assert timeless(train(recipe, tiny, tmp_path)) == timeless(train(recipe, tiny))


# --- generators


def test_generator_of_the_device_is_kept_apart_too(monkeypatch):
    device = {"state": torch.tensor([1], dtype=torch.uint8)}
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: device["state"])
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state: device.update(state=state))
    generators = resume.Generators(torch.device("mps"), 3)
    with generators.ours():
        device["state"] = torch.tensor([2], dtype=torch.uint8)
    assert device["state"].tolist() == [1]
    saved = generators.state()
    assert saved["mps"].tolist() == [2]
    # A run that goes on elsewhere takes what there is a generator for.
    elsewhere = resume.Generators(torch.device("cpu"), 0)
    elsewhere.load(saved)
    assert elsewhere.state().keys() == {"cpu"}
    assert torch.equal(elsewhere.state()["cpu"], saved["cpu"])
