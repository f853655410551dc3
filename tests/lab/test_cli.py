"""The command line as a user types it: what it prints, and one line for what goes wrong."""

import os
import pty
import signal
import subprocess
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from wnlib import Norm, Recipe
from wnlib.lab import Run, cli
from wnlib.lab.cli import main

# The report's recipe does not whiten, which saves seconds.
SIZE = ["--width", "2", "--epochs", "2", "--device", "cpu"]
SMALL = [*SIZE, "--recipe", "report"]
WNLIB = [sys.executable, "-m", "wnlib"]


def fails(capsys, *argv):
    """Run a command that must fail; return its one line on standard error."""
    try:
        code = main([str(a) for a in argv])
    except SystemExit as stopped:  # argparse's way
        code = stopped.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "data | train | compare"),
        ("train", "required: none | wn | mobn | bn | wn_mobn"),
        ("train layer_norm", "norm is one of none, wn, mobn, bn, wn_mobn, not 'layer_norm'"),
        ("train wn,bn", "train takes one value of each; compare takes lists"),
        ("train wn --epochs 0", "epochs is a whole number from 1 to 100,000, not 0"),
        ("train none --device tpu", "there is no device 'tpu' here; use auto or cpu"),
        ("train wn --late-beta1 nan", "late_beta1 is from 0 to below 1, not nan"),
        ("train wn --out=", "argument --out: invalid folder_name value: ''"),
        ("train wn --width 100000 --device cpu --out /tmp", "there is not enough memory; a smal"),
        ("compare --lrs 0.1,fast", "could not convert string to float: 'fast'"),
        ("compare --jobs 0", "jobs is a whole number from 1 up"),
        ("compare --cluster tcp://host", "scheduler answers at 'tcp://host' (tcp://HOST:PORT)"),
        ("train wn --out /dev/null/run", "Not a directory"),
        *((f"compare --seeds={text}", f"argument --seeds: invalid seeds value: '{text}'")
          for text in ("", "0-", "-4", "4-2", "0,,1", "1.5", "0-1-2", "0-99999999")),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(capsys, tmp_path, monkeypatch, line, said):
    monkeypatch.chdir(tmp_path)
    assert said in fails(capsys, *line.split())


def test_data_says_what_is_there_and_a_fault_of_ours_is_a_traceback(capsys, monkeypatch):
    assert main(["data"]) == 0
    assert capsys.readouterr().out == "Cifar10(sample: 2,000 + 1,000 images), md5 sums hold\n"
    monkeypatch.setattr(cli, "load_cifar10", lambda: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        main(["data"])


def test_train_opens_with_a_line_prints_and_records_each_epoch(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    command = ["train", "wn", *SMALL, "--scale", "exp", "--lr", "0.01", "--out", "~/run"]
    assert main(command) == 0
    said = capsys.readouterr().out
    opening, *lines, last = said.splitlines()
    assert opening == f"width 2, epochs 2, on the sample, on cpu, in {tmp_path / 'run'}"
    run = Run.load(tmp_path / "run")
    assert (run.recipe.scale, run.recipe.lr, run.recipe.width) == ("exp", 0.01, 2)
    epochs = ["weight norm epoch   1 of 2", "weight norm epoch   2 of 2"]
    assert [line.partition(":")[0] for line in lines] == epochs
    assert last.startswith("weight norm: finished; test error ")
    assert f"{100 * run.rows[-1].test_error:.2f} %" in last
    assert main(command) == 0  # finished: only told again
    assert capsys.readouterr().out == said
    another = fails(capsys, "train", "wn", *SMALL, "--out", tmp_path / "run")
    assert "holds another run (scale exp, not linear, lr 0.01, not 0.001); choose" in another


def planned(command, *argv):
    return cli._plans(cli._parser().parse_args([command, *argv]))


def test_on_the_sample_beta1_stays():
    """With its fall weight norm's loss explodes there."""
    paper = Recipe.paper("wn").replace(width=24, epochs=20)
    for options, late in (("", 0.9), ("--full", 0.5), ("--late-beta1 0.5", 0.5)):
        assert planned("train", "wn", *options.split())[0].recipe == paper.replace(late_beta1=late)


def test_a_run_that_diverges_has_a_status_of_its_own(capsys, tmp_path):
    assert main(["train", "none", *SMALL, "--lr", "1e30", "--out", str(tmp_path)]) == 3
    assert "plain: diverged at epoch 1; test error " in capsys.readouterr().out


def test_compare_trains_all_prints_the_table_and_names_what_failed(capsys, tmp_path):
    """One run's folder holds something else."""
    Run(Recipe.paper("wn")).save(tmp_path / "seed1" / "wn")
    grid = ["--recipes", "report", "--norms", "none,wn", "--seeds", "0,1"]
    said = fails(capsys, "compare", *SIZE, *grid, "--out", tmp_path)
    assert said.startswith("wnlib: 1 of 4 runs failed, seed1/wn since ")
    assert "seed 0, not 1" in said
    main(["compare", *SIZE, *grid[:4], "--out", str(tmp_path / "two")])
    table = capsys.readouterr().out.rpartition("recorded in ")[2].splitlines()
    assert table[2].split() == ["n", "mean", "sd", "diverged"]
    assert [line.split()[:-3] for line in table[3:]] == [["plain", "1"], ["weight", "norm", "1"]]


def test_default_folders_tell_runs_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes = ("--full", "--seed=1", "--lr=0.01", "--recipe=paper", "--scale=exp",
               "--late-beta1=0.7", "--width=3", "--epochs=4", "--device=auto")  # fmt: skip
    folders = {planned("train", "wn", *SMALL, change)[0].folder for change in changes}
    assert len(folders) == len(changes)
    assert {folder.parents[1] for folder in folders} == {tmp_path / "runs"}
    grid = planned("compare", "--seeds", "0-2,7")
    assert [plan.name for plan in grid] == [f"seed{s}/{n}" for s in (0, 1, 2, 7) for n in Norm]


@pytest.mark.parametrize("rest", ["data >&-", "data | true", f"train bn {' '.join(SMALL)} 2>&-"])
def test_streams_that_are_closed_are_no_traceback(tmp_path, rest):
    line = ["bash", "-c", f"{' '.join(WNLIB)} {rest}"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on_in_any_encoding(tmp_path, how):
    argv = [*WNLIB, "train", "wn", *SMALL, "--epochs", "6", "--out", "é−日"]
    options = {"cwd": tmp_path, "env": os.environ | {"PYTHONIOENCODING": "ascii"}, "text": True}
    process = subprocess.Popen(argv, stderr=-1, stdout=subprocess.DEVNULL, **options)
    history = tmp_path / "é−日" / "history.csv"
    while not (history.exists() and history.read_text().count("\n") >= 2):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(how)
    _, said = process.communicate()
    if how is signal.SIGINT:
        assert process.returncode == 2
        assert said == "wnlib: stopped; the same command goes on from the last whole epoch\n"
    stopped = Run.load(history.parent)
    assert stopped.state == "interrupted"
    assert "\\u65e5" in subprocess.run(argv, stdout=-1, check=True, **options).stdout
    finished = Run.load(history.parent)
    assert finished.state == "finished"
    rows = finished.rows[: len(stopped.rows)]
    assert [row[:-1] for row in rows] == [row[:-1] for row in stopped.rows]


def test_progress_bar_at_a_terminal(tmp_path):
    ours, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    argv = [*WNLIB, "train", "wn", *SMALL, "--out", str(tmp_path)]
    done = subprocess.run(argv, stderr=terminal, stdout=-1, text=True, check=True)
    os.close(terminal)
    shown = b""
    with suppress(OSError):  # which is how a terminal's output ends on Linux
        while chunk := os.read(ours, 4096):
            shown += chunk
    os.close(ours)
    assert b"weight norm: " in shown
    assert b"40/40" in shown
    assert done.stdout.count("\n") == 2


def test_importing_changes_nothing_and_loads_little():
    """What draws is the book's; what not everybody needs is loaded where it is used."""
    heavy = {"matplotlib", "scipy", "ipywidgets", "torchvision", "pooch", "distributed"}
    code = (
        "import signal, sys, torch; threads = torch.get_num_threads(); import wnlib.lab.cli\n"
        "assert not torch.backends.cudnn.benchmark and torch.is_grad_enabled()\n"
        "assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL\n"
        f"assert torch.get_num_threads() == threads and not {heavy!r} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path.home())
