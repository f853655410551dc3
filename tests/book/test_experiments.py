"""The recorded experiments are those that the command would record again."""

import math
import re
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from record import EXPERIMENTS, MEASURED, NAMES, ROOT, begin_as_recorded, ladder, main

from wnlib import Recipe, load_cifar10
from wnlib.lab import Run
from wnlib.lab import record as record_run

BOOK = ROOT / "book"
UNKEPT = {"noise", "statistics"}  # their networks are measured, and not kept
TO_COME = {"stall", "report-length", "paper-length"}  # not recorded yet
MISSING = {"width96-paper-40-fair/none"}  # of an experiment whose other run is recorded
CUT_OFF = {"width96-paper-40-again/seed1/mobn"}  # in epoch 32, when a GPU's time was up; told so


def test_every_recorded_run_is_one_of_an_experiment():
    recorded = {p.parent for p in (BOOK / "runs").glob("**/run.json")}
    # The report's own; those of book/beyond have tests of their own.
    recorded = {p for p in recorded if not re.search("/(report-2019|beyond-)", p.as_posix())}
    kept = [name for name in EXPERIMENTS if name not in UNKEPT | TO_COME]
    missing = {BOOK / "runs" / name for name in MISSING}
    plans = [plan for name in kept for plan in EXPERIMENTS[name](BOOK / "runs")]
    assert missing < {plan.folder for plan in plans}
    plans = [plan for plan in plans if plan.folder not in missing]
    assert recorded == {plan.folder for plan in plans}
    for plan in plans:
        run = Run.load(plan.folder)
        assert run.recipe == plan.recipe
        name = plan.folder.relative_to(BOOK / "runs").as_posix()
        assert (run.state == "interrupted") == (name in CUT_OFF), name
        assert run.provenance["data"]["name"] == "full"
        assert "dirty" not in run.provenance["commit"]


def test_records_of_measurements_are_there():
    for name in MEASURED:
        assert (BOOK / "records" / f"{name}.json").is_file()


def test_what_it_says(tmp_path, capsys):
    assert main([]) == 0
    said = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert said == [*NAMES]
    with pytest.raises(SystemExit) as stop:
        main(["nothing"])
    assert stop.value.code == 2
    assert main(["sweep", "--jobs", "0", "--out", str(tmp_path)]) == 2
    assert "jobs is a whole number" in capsys.readouterr().err


@pytest.mark.parametrize("norm", ["none", "wn", "bn"])
def test_each_rung_changes_one_thing(norm):
    rungs = list(ladder(norm).values())
    changed = [
        {field for field in vars(b) if getattr(a, field) != getattr(b, field)} - {"name"}
        for a, b in pairwise(rungs)
    ]
    mended = {"none": set(), "wn": {"init_images"}, "bn": {"norm"}}
    assert changed[0] == mended[norm]
    assert changed[1:4] == [{"sigma"}, {"sigma", "inputs"}, {"decay_from"}]
    # What is left: Adam's rate and epsilon, and how the first step finds the weights.
    assert changed[4] <= {"lr", "adam_eps", "bn_eps", "init_images", "plain"}
    assert rungs[-1] == Recipe.paper(norm)


def test_the_lowest_rung_starts_as_the_report_did(tiny, tmp_path):
    plan = next(p for p in EXPERIMENTS["ladder"](tmp_path) if p.name == "recorded/wn")
    plan = plan._replace(recipe=plan.recipe.replace(width=2, epochs=1, batch_size=10))
    begin_as_recorded(plan, tiny)
    start = plan.folder / "checkpoint.pt"
    weights = torch.load(start, weights_only=True)["model"]
    ones = [w for name, w in weights.items() if name.endswith("original0")]
    assert len(ones) == 10
    assert all((w == 1).all() for w in ones)
    assert not any(w.any() for name, w in weights.items() if name.endswith("bias"))
    assert record_run(plan.recipe, tiny, plan.folder, device="cpu").state == "finished"
    after = start.read_bytes()
    begin_as_recorded(plan, tiny)  # what has begun is left alone
    assert start.read_bytes() == after


def test_noise_of_no_run_is_one_line(tmp_path):
    command = [sys.executable, BOOK / "noise.py", tmp_path / "none"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_noise_of_a_trained_network(beside, tmp_path):
    recipe = Recipe.paper("bn").replace(width=4, epochs=1)
    data = load_cifar10()
    record_run(recipe, data, tmp_path, device="cpu")
    table = beside("noise").measure(tmp_path, data, draws=25)["kurtosis"]
    assert len(table) == 10
    for layer in table.values():  # nearly Gaussian means, heavier tails of both together
        assert abs(layer["mean-only BN"] - 3) < 1
        assert layer["batch norm"] > layer["mean-only BN"] - 0.5


@pytest.mark.parametrize("best", [3e-5, 1e-3, 0.1])
def test_the_best_rate_of_small_batches_has_a_neighbor_on_either_side(beside, best):
    small = beside("small_batches")
    calls = []

    def trained(method, size, rate, seed):
        calls.append((rate, seed))
        off = abs(math.log(rate / best))
        return {"held out": off, "test": seed + off}

    row = small.at_best_rate("plain", 8, trained)
    assert row["rate"] == best
    assert row["test"] == [0, 1, 2]
    assert len(calls) == len(set(calls))
    at = small.RATES.index(best)
    assert {*small.RATES[max(at - 1, 0) : at + 2]} <= {*row["tried"]}


def test_small_batches_train_on_what_is_not_held_out(beside, monkeypatch):
    small = beside("small_batches")
    data = load_cifar10()
    images, labels = small.symmetric(data.train_images), data.train_labels
    parts = (
        (images[:800], labels[:800]),
        (images[800:1200], labels[800:1200]),
        (images[:400], labels[:400]),
    )
    monkeypatch.setattr(small, "cifar10", lambda: parts)
    for method in ("weight norm", "batch norm", small.BOTH):
        errors = small.trained(method, 50, 0.003, 0, epochs=2)
        assert errors["training"] < errors["held out"] < 0.9
        moved = errors["test"] != errors["test, running"]
        assert moved == (method in ("batch norm", small.BOTH))


def test_new_statistics_change_batch_norm_alone(beside, tmp_path):
    data = load_cifar10()
    for norm in ("bn", "wn"):
        recipe = Recipe.report(norm).replace(width=4, epochs=2)
        run = record_run(recipe, data, tmp_path / norm, device="cpu")
        errors = beside("running_statistics").measure(tmp_path / norm, data)
        assert errors["test, running"] == run.rows[-1].test_error
        assert (errors["test, anew"] < errors["test, running"]) == (norm == "bn")
