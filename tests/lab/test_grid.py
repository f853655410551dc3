"""A grid of runs: it goes on, survives what fails, and says how it goes."""

import io
import re
import sys
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest
from grids import Inline, Notes
from training import timeless

from wnlib import Norm, train
from wnlib.data import DataError
from wnlib.lab import Run
from wnlib.lab.grid import Display, WorkerError, plan_grid, run_grid, summarize, summary_text
from wnlib.lab.grid import run as module
from wnlib.lab.lock import Busy
from wnlib.lab.runs import RunError

pytestmark = pytest.mark.usefixtures("one_thread")


class Refusing(Executor):
    def submit(self, fn, *args):
        raise AssertionError("nothing is left to train")


# --- any executor


@pytest.fixture
def quick(tiny, monkeypatch):
    """Runs of a second, on 40 images that only this process knows."""
    monkeypatch.setattr(module, "_data", lambda full: tiny)

    def plans(out, **axes):
        changes = {"batch_size": 10, "init_images": 20, "inputs": "symmetric"}
        found = plan_grid(out, width=2, epochs=3, **({"norms": [Norm.NONE, Norm.WN]} | axes))
        return [plan._replace(recipe=plan.recipe.replace(**changes)) for plan in found]

    return plans


def test_each_plan_is_the_run_that_train_gives(quick, tiny, tmp_path):
    plans, notes = quick(tmp_path, seeds=[0, 1]), Notes()
    results = run_grid(plans, tiny, Inline(), device="cpu", display=notes)
    assert list(results) == plans
    for plan, run in results.items():
        assert timeless(run.rows) == timeless(train(plan.recipe, tiny))
        assert Run.load(plan.folder).rows == run.rows
    names = [plan.name for plan in plans]
    assert notes.rows == [(name, epoch) for name in names for epoch in (1, 2, 3)]
    assert notes.ends == names
    assert sorted(tmp_path.iterdir()) == [tmp_path / "seed0", tmp_path / "seed1"]


def test_what_is_finished_is_not_trained_again(quick, tiny, tmp_path):
    plans = quick(tmp_path)
    first = run_grid(plans, tiny, Inline(), device="cpu")
    again, notes = quick(tmp_path), Notes()
    assert run_grid(again, tiny, Refusing(), device="cpu", display=notes) == first
    assert notes.rows == []
    assert notes.ends == ["none", "wn"]


def test_a_stopped_run_goes_on(quick, tiny, tmp_path):
    none, wn = quick(tmp_path)
    rows = train(wn.recipe, tiny, wn.folder, device="cpu")
    next(rows)
    rows.close()
    notes = Notes()
    results = run_grid([none, wn], tiny, Inline(), device="cpu", display=notes)
    assert [epoch for name, epoch in notes.rows if name == "wn"] == [2, 3]
    assert timeless(results[wn].rows) == timeless(train(wn.recipe, tiny))


def test_two_threads_of_one_process_take_turns(quick, tiny, tmp_path):
    plans = quick(tmp_path)
    with ThreadPoolExecutor(2) as executor:
        results = run_grid(plans, tiny, executor, device="cpu")
    for plan, run in results.items():
        assert timeless(run.rows) == timeless(train(plan.recipe, tiny))


def test_a_diverged_run_is_a_result(quick, tiny, tmp_path):
    plans = quick(tmp_path, norms=[Norm.NONE, Norm.WN], seeds=[0, 1])
    wild = [p._replace(recipe=p.recipe.replace(lr=1e30)) for p in plans if p.setting.norm == "none"]
    results = run_grid([*wild, *plans[1::2]], tiny, Inline(), device="cpu")
    assert all(results[plan].state.startswith("diverged") for plan in wild)
    summary = summarize(results)
    assert [row["diverged"] for row in summary["settings"]] == [2, 0]
    assert re.search(r"^none .* 2 diverged$", summary_text(summary), re.MULTILINE)


def test_one_failure_does_not_lose_the_others(quick, tiny, tmp_path):
    plans = quick(tmp_path, norms=list(Norm))
    Run(plans[1].recipe.replace(seed=7)).save(plans[1].folder)
    (plans[3].folder).mkdir()
    (plans[3].folder / "run.json").write_text("{")
    before = (plans[1].folder / "run.json").read_bytes()
    results = run_grid(plans, tiny, Inline(), device="cpu")
    assert [isinstance(result, Run) for result in results.values()] == [True, False] * 2 + [True]
    assert "another run" in str(results[plans[1]])
    summary = summarize(results)
    assert list(summary["failed"]) == ["wn", "bn"]
    assert [row["name"] for row in summary["runs"]] == ["none", "mobn", "wn_mobn"]
    assert (plans[1].folder / "run.json").read_bytes() == before


def test_rows_of_another_run_are_not_shown(quick, tiny, tmp_path):
    (plan,) = quick(tmp_path, norms=[Norm.WN])
    list(train(plan.recipe.replace(seed=1), tiny, plan.folder, device="cpu"))
    notes = Notes()
    run_grid([plan], tiny, Inline(), device="cpu", display=notes)
    assert notes.rows == []


def test_a_busy_folder_is_waited_for(quick, tiny, tmp_path, monkeypatch, capsys):
    plans = quick(tmp_path)
    tries = []

    def busy_twice(recipe, *args, **kwargs):
        tries.append(recipe.norm)
        if recipe.norm == "none" and tries.count("none") < 3:
            raise Busy("another training is at work")
        return train(recipe, *args, **kwargs)

    monkeypatch.setattr(module, "train", busy_twice)
    results = run_grid(plans, tiny, Inline(), device="cpu", display=Display())
    assert tries == ["none", "wn", "none", "none"]
    assert all(run.state == "finished" for run in results.values())
    assert capsys.readouterr().out.count("waiting for it") == 1


def test_a_folder_that_a_worker_does_not_see(quick, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SEEN_WITHIN", 0.2)

    class Elsewhere(Inline):
        def submit(self, fn, *args):
            for token in tmp_path.glob(".grid-*"):
                token.unlink()
            return super().submit(fn, *args)

    with pytest.raises(
        WorkerError, match=r"does not see .*--out must be a folder that all"
    ) as said:
        run_grid(quick(tmp_path), tiny, Elsewhere(), device="cpu")
    assert "\n" not in str(said.value)
    assert list(tmp_path.glob("*")) == [], "it trained all the same"


def test_a_grid_whose_head_is_gone_stops_after_the_epoch(quick, tiny, tmp_path):
    (plan,) = quick(tmp_path, norms=[Norm.WN])
    token = tmp_path / "token"
    token.touch()

    def gone(*args, **kwargs):
        for row in train(*args, **kwargs):
            token.unlink(missing_ok=True)
            yield row

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "train", gone)
        with pytest.raises(RunError, match="was stopped"):
            module._work(plan.recipe, plan.folder, token, False, "cpu", None)
    assert len(Run.load(plan.folder).rows) == 1


def test_data_that_a_worker_cannot_have(quick, tiny, tmp_path, monkeypatch):
    def refuse(full):
        raise DataError("CIFAR-10 could not be loaded.")

    plans = quick(tmp_path)
    monkeypatch.setattr(module, "_data", refuse)
    with pytest.raises(DataError, match="could not be loaded"):
        run_grid(plans, tiny, Inline(), device="cpu")


def test_a_folder_that_cannot_be_written(quick, tiny, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot be written"):
        run_grid(quick(tmp_path / "file" / "out"), tiny, Refusing(), device="cpu")


# --- what is said


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_one_bar_for_the_whole_grid(quick, tiny, tmp_path, monkeypatch, capsys):
    none, wn, bn = quick(tmp_path, norms=[Norm.NONE, Norm.WN, Norm.BN])
    run_grid([none], tiny, Inline(), device="cpu")
    wn = wn._replace(recipe=wn.recipe.replace(lr=1e30))
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    display = Display()
    run_grid([none, wn, bn], tiny, Inline(), device="cpu", display=display)
    display.close()
    shown = terminal.getvalue()
    assert "1 of 3 runs" in shown  # the one that was there
    last = shown.rstrip().rsplit("\r", 1)[1]
    ran = 3 + len(Run.load(wn.folder).rows) + 3
    assert "3 of 3 runs: 100%" in last
    assert f"{ran}/{ran}" in last, "a diverged run has no more epochs to come"
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert sum("epoch   " in line for line in lines) == ran - 3
    assert [line.split(":")[0] for line in lines if "best" in line] == ["none", "wn", "bn"]


def test_without_a_terminal_there_is_no_bar(quick, tiny, tmp_path, capsys):
    run_grid(quick(tmp_path), tiny, Inline(), device="cpu", display=Display())
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.count("epoch   ") == 6
