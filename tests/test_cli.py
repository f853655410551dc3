"""The command line as a user types it: what it prints, and one line for what goes wrong."""

import contextlib
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import termios
import time

import pytest

from wnlib import Norm, Run, __main__
from wnlib.__main__ import main
from wnlib.bench import compare_steps
from wnlib.data import DataError
from wnlib.step import find_device

# The report's recipe does not whiten, which saves seconds.
SMALL = ["--width", "2", "--epochs", "2", "--device", "cpu", "--recipe", "report"]


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
    ("argv", "said"),
    [
        ([], "required"),
        (["dance"], "dance"),
        (["train"], "norm"),
        (["train", "layer_norm"], "layer_norm"),
        (["train", "wn", "--epochs", "many"], "many"),
        (["train", "wn", "--epochs", "0"], "epochs is a whole number from 1 up, not 0"),
        (["train", "wn", "--lr", "-1"], "lr is a number above 0"),
        (["train", "none", "--device", "tpu"], "device is auto, cpu, cuda or mps, not 'tpu'"),
        (["compare", "--recipe", "mine"], "mine"),
        (["compare", "--seed", "-1"], "seed"),
        (["bench", "--widths", "0"], "widths"),
    ],
)
def test_bad_input_is_one_line(capsys, argv, said):
    assert said in fails(capsys, *argv)


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_no_such_device(capsys, monkeypatch, device):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    assert f"no {device} device" in fails(capsys, "train", "wn", "--device", device)


def test_unwritable_folder(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    said = fails(capsys, "train", "wn", *SMALL, "--out", tmp_path / "file" / "run")
    assert "cannot be written" in said


def test_data_that_cannot_be_had(capsys, monkeypatch):
    def refuse(full):
        raise DataError("CIFAR-10 could not be loaded.")

    monkeypatch.setattr(__main__, "load_cifar10", refuse)
    assert "could not be loaded" in fails(capsys, "data", "--full")


def test_data(capsys):
    assert main(["data"]) == 0
    assert capsys.readouterr().out == "Cifar10(sample: 2,000 + 1,000 images), md5 sums hold\n"
    assert main(["data", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["train_images"] == 2000


def test_train_prints_and_records_each_epoch(capsys, tmp_path):
    command = ["train", "wn", *SMALL, "--scale", "exp", "--lr", "0.01", "--out", str(tmp_path)]
    assert main(command) == 0
    out = capsys.readouterr().out
    run = Run.load(tmp_path)
    assert (run.recipe.scale, run.recipe.lr, run.recipe.width) == ("exp", 0.01, 2)
    assert out.count("epoch ") >= 2
    assert f"{100 * run.rows[-1].test_error:.2f} %" in out
    assert main([*command, "--json"]) == 0  # finished: only told again
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows == [row._asdict() for row in run.rows]


def test_another_recipe_in_the_same_folder(capsys, tmp_path):
    assert main(["train", "wn", *SMALL, "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    said = fails(capsys, "train", "wn", *SMALL, "--seed", "1", "--out", tmp_path)
    assert "seed 0, not 1" in said
    assert Run.load(tmp_path).recipe.seed == 0


def test_compare_trains_five_and_prints_the_table(capsys, tmp_path):
    command = [
        "compare",
        "--width",
        "2",
        "--epochs",
        "1",
        "--device",
        "cpu",
        "--out",
        str(tmp_path),
    ]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert all(norm.label in text for norm in Norm)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(Norm)
    assert main([*command, "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    for row in table:
        assert row["final"] == Run.load(tmp_path / row["norm"]).summary().final_error


def test_default_folders_tell_runs_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    variants = [[], ["--seed", "1"], ["--lr", "0.01"], ["--recipe", "paper"], ["--scale", "exp"]]
    for extra in variants:
        main(["train", "wn", *SMALL, "--epochs", "1", *extra])
    assert len(list(tmp_path.glob("runs/*/wn/run.json"))) == len(variants)


def test_bench(capsys):
    assert main(["bench", "--widths", "2", "--rounds", "1", "--device", "cpu", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["width"] == 2
    assert row["ratio"] == pytest.approx(row["wnlib"] / row["plain"])
    assert main(["bench", "--widths", "2", "--rounds", "1", "--device", "cpu"]) == 0
    assert "ratio" in capsys.readouterr().out


def test_bench_says_where_it_is(monkeypatch, sample):
    said = []
    compare_steps(2, sample, find_device("cpu"), rounds=1, block=1, workers=0, say=said.append)
    assert said[-1] == "width 2: round 1 of 1"


def test_module_runs_without_traceback():
    done = subprocess.run([sys.executable, "-m", "wnlib"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_reader_that_leaves_is_no_error(tmp_path):
    command = [sys.executable, "-m", "wnlib", "train", "wn", *SMALL, "--json", "--out", tmp_path]
    done = subprocess.run(
        ["bash", "-c", shlex.join(map(str, command)) + " | head -n 1"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["epoch"] == 1
    assert done.stderr == ""


def test_ctrl_c_is_one_line_and_the_run_goes_on(tmp_path):
    command = [sys.executable, "-m", "wnlib", "train", "wn", *SMALL, "--epochs", "12"]
    command += ["--out", str(tmp_path)]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    history = tmp_path / "history.csv"
    deadline = time.monotonic() + 60
    while not (history.exists() and history.read_text().count("\n") >= 3):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said == "wnlib: stopped; the same command goes on from the last whole epoch\n"
    stopped = Run.load(tmp_path)
    assert stopped.state == "interrupted"
    assert 2 <= len(stopped.rows) < 12
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    finished = Run.load(tmp_path)
    assert finished.state == "finished"
    assert [row[:-1] for row in finished.rows[: len(stopped.rows)]] == [
        r[:-1] for r in stopped.rows
    ]


def test_progress_bar_at_a_terminal(tmp_path):
    main_end, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    command = [sys.executable, "-m", "wnlib", "train", "wn", *SMALL, "--out", str(tmp_path)]
    done = subprocess.run(command, stderr=terminal, stdout=subprocess.PIPE, text=True, check=True)
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal's output is an error on Linux
        while chunk := os.read(main_end, 4096):
            shown += chunk
    os.close(main_end)
    assert "40/40" in shown.decode(errors="replace")
    assert "finished" in done.stdout
