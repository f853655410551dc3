"""The command line as a user types it: what it prints, and one line for what goes wrong."""

import contextlib
import os
import pty
import shlex
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wnlib import Norm, Recipe
from wnlib.lab import Run, cli
from wnlib.lab.cli import main
from wnlib.lab.records import NO_MEMORY

# The report's recipe does not whiten, which saves seconds.
SMALL = ["--width", "2", "--epochs", "2", "--device", "cpu", "--recipe", "report"]
GRID = [*SMALL[:6], "--recipes", "report"]
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
    ("argv", "said"),
    [
        ([], "data | train | compare"),
        (["dance"], "dance"),
        (["train"], "required: none | wn | mobn | bn | wn_mobn"),
        (["train", "layer_norm"], "layer_norm"),
        (["train", ""], "none | wn"),
        (["train", "wn", "--epochs", "many"], "many"),
        (["train", "wn", "--epochs", "0"], "epochs is from 1 to 100,000, not 0"),
        (["train", "wn", "--width", ""], "width"),
        (["train", "wn", "--lr", "-1"], "lr is a number above 0"),
        (["train", "none", "--scale", "exp"], "exp is a scale of weight norm"),
        (["train", "none", "--device", "tpu"], "there is no device 'tpu' here; use auto or cpu"),
        (["train", "wn", "--device", ""], "there is no device '' here; use auto or cpu"),
        (["train", "wn", "--late-beta1", "nan"], "nan is not from 0 to below 1"),
        (["train", "wn", "--late-beta1", "half"], "half"),
        (["train", "wn", "--out", ""], "it is empty"),
        (["train", "wn", "--out", "~nobody-of-that-name/x"], "is in the home of nobody"),
        (["compare", "--out", " "], "it is empty"),
        (["compare", "--recipes", "paper,mine"], "'mine' is not one of paper, report"),
        (["compare", "--recipes", "paper,"], "'' is not one of paper, report"),
        (["compare", "--norms", "wn,layer_norm"], "'layer_norm' is not one of none, wn"),
        (["compare", "--norms", "none", "--scales", "exp"], "exp is a scale of weight norm"),
        (["compare", "--lrs", "0.1,fast"], "'0.1,fast' is not numbers with commas"),
        (["compare", "--lrs", "0.1,nan"], "lr is a number above 0"),
        (["compare", "--seeds=-1"], "seed"),
        (["compare", "--jobs", "0"], "jobs is a whole number from 1 up"),
        (["compare", "--jobs", "2", "--cluster", "tcp://a:1"], "not allowed with"),
        (["compare", "--cluster", ""], "it is empty"),
        (["compare", "--cluster", "tls://127.0.0.1:9"], "address is tcp://HOST:PORT, not tls://"),
        (["compare", "--cluster", "tcp://127.0.0.1:9"], "no Dask scheduler answers at tcp://127"),
    ],
)
def test_bad_input_is_one_line(capsys, argv, said):
    assert said in fails(capsys, *argv)


def test_folders_that_are_none(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    said = fails(capsys, "train", "wn", *SMALL, "--out", tmp_path / "file" / "run")
    assert "cannot be written" in said
    said = fails(capsys, "compare", *GRID, "--out", tmp_path / "file" / "run")
    assert "cannot be written" in said


def test_data(capsys):
    assert main(["data"]) == 0
    opening, said = capsys.readouterr().out.splitlines()
    assert opening == "CIFAR-10, the sample of 2,000 + 1,000 images, in the package"
    assert said == "Cifar10(sample: 2,000 + 1,000 images), md5 sums hold"


def test_train_opens_with_a_line_prints_and_records_each_epoch(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    command = ["train", "wn", *SMALL, "--scale", "exp", "--lr", "0.01", "--out", "~/run"]
    assert main(command) == 0
    opening, *lines = capsys.readouterr().out.splitlines()
    folder = tmp_path / "run"
    assert opening == (
        f"the sample of 2,000 + 1,000 images, width 2, epochs 2, cpu, "
        f"{Run.load(folder).provenance['precision']}, in {folder}"
    )
    run = Run.load(folder)
    assert (run.recipe.scale, run.recipe.lr, run.recipe.width) == ("exp", 0.01, 2)
    assert [line.partition(":")[0] for line in lines[:-1]] == [
        "weight norm epoch   1 of 2", "weight norm epoch   2 of 2",
    ]  # fmt: skip
    assert lines[-1].startswith("weight norm: finished; test error ")
    assert f"{100 * run.rows[-1].test_error:.2f} %" in lines[-1]
    assert main(command) == 0  # finished: only told again
    assert capsys.readouterr().out.splitlines() == [opening, *lines]


def test_on_the_sample_beta1_stays_and_that_is_said():
    """With its fall weight norm diverges there."""

    def planned(*argv):
        arguments = cli._parser().parse_args(["compare", *argv])
        axes = {name: getattr(arguments, name) for name in ("recipes", "lrs", "scales", "seeds")}
        return cli._plans(arguments, norms=[Norm.WN], **axes)[0].recipe

    paper = Recipe.paper("wn").replace(width=24, epochs=20)
    assert planned() == paper.replace(late_beta1=0.9)
    assert planned("--late-beta1", "0.5") == planned("--full") == paper
    assert planned("--full", "--late-beta1", "0.7") == paper.replace(late_beta1=0.7)


def test_a_run_that_diverges_has_a_status_of_its_own(capsys, tmp_path):
    command = ["train", "none", *SMALL, "--lr", "1e30", "--out", str(tmp_path)]
    assert main(command) == 3
    assert "plain: diverged at epoch 1; test error " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "3 for a run that diverged" in " ".join(capsys.readouterr().out.split())


def test_another_recipe_in_the_same_folder(capsys, tmp_path):
    assert main(["train", "wn", *SMALL, "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    said = fails(capsys, "train", "wn", *SMALL, "--seed", "1", "--out", tmp_path)
    assert "seed 0, not 1" in said
    assert Run.load(tmp_path).recipe.seed == 0


def test_compare_trains_all_prints_the_table_and_names_what_failed(capsys, tmp_path):
    """One run's folder holds something else."""
    main(["train", "wn", *SMALL, "--seed", "7", "--out", str(tmp_path / "seed1" / "wn")])
    capsys.readouterr()
    command = ["compare", *GRID, "--norms", "none,wn", "--seeds", "0,1", "--out", str(tmp_path)]
    assert main(command) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("wnlib: 1 of 4 runs failed, seed1/wn since ")
    assert "seed 7, not 1" in captured.err
    assert captured.err.count("\n") == 1
    table = captured.out.rpartition("recorded in ")[2].splitlines()
    assert table[2].split() == ["n", "mean", "sd", "diverged"]
    assert [line.split()[:-3] for line in table[3:]] == [["plain", "2"], ["weight", "norm", "1"]]


@given(st.sets(st.integers(0, 2**64 - 1), min_size=1, max_size=5), st.integers(0, 99))
def test_seeds(firsts, more):
    texts = [str(first) if not more else f"{first}-{first + more}" for first in firsts]
    expected = [seed for first in firsts for seed in range(first, first + more + 1)]
    arguments = cli._parser().parse_args(["compare", "--seeds", ",".join(texts)])
    assert arguments.seeds == tuple(dict.fromkeys(expected))


@pytest.mark.parametrize(
    "text", ["", "0-", "-4", "4-2", "0,,1", "1.5", "0 1", "0-1-2", "0-99999999"]
)
def test_seeds_that_are_none(capsys, text):
    assert "is not a seed, or up to 1000 as in 0-4,7" in fails(capsys, "compare", f"--seeds={text}")


def test_default_folders_tell_runs_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes = [["--seed", "1"], ["--lr", "0.01"], ["--recipe", "paper"], ["--scale", "exp"]]
    changes += [[], ["--full"], ["--late-beta1", "0.7"], ["--width", "3"], ["--epochs", "4"]]
    folders = set()
    for extra in changes:
        a = cli._parser().parse_args(["train", "wn", *SMALL, *extra])
        axes = {"recipes": [a.recipe], "lrs": [a.lr], "scales": [a.scale], "seeds": [a.seed]}
        folders.add(cli._plans(a, norms=[Norm.WN], **axes)[0].folder)
    assert len(folders) == len(changes)
    assert {folder.parents[1] for folder in folders} == {tmp_path / "runs"}


# --- processes: closed streams, readers that leave, signals, terminals, encodings


def command(*argv, code="", **options):
    """The command in a process of its own, after some lines of Python; what it said."""
    lines = [code, "import sys", "from wnlib.lab.cli import main", f"sys.exit(main({[*argv]!r}))"]
    options = {"capture_output": True, "text": True} | options
    return subprocess.run([sys.executable, "-c", "\n".join(lines)], **options)


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&- >&- 2>&-", "| true", ">/dev/full"])
def test_streams_that_are_closed_or_full_are_no_traceback(redirection):
    line = f"{shlex.join([*WNLIB, 'data'])} {redirection}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") <= 1


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_every_line_prints_in_any_encoding(tmp_path, encoding):
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    argv = [*WNLIB, "train", "none", *SMALL[:6], "--recipe", "report", "--out", "é−日"]
    done = subprocess.run(argv, env=environment, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0
    said = done.stdout.decode(encoding)
    assert ("\\u65e5" if encoding != "utf-8" else "日") in said
    done = subprocess.run([*WNLIB, "train", "wn", "--seed=-1"], env=environment, stderr=-1)
    assert b"seed is a whole number" in done.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on(tmp_path, how):
    argv = [*WNLIB, "train", "wn", *SMALL, "--epochs", "7", "--out", str(tmp_path)]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    history = tmp_path / "history.csv"
    while not (history.exists() and history.read_text().count("\n") >= 3):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(how)
    _, said = process.communicate()
    if how is signal.SIGINT:
        assert process.returncode == 2
        assert said == "wnlib: stopped; the same command goes on from the last whole epoch\n"
    stopped = Run.load(tmp_path)
    assert stopped.state == "interrupted"
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
    finished = Run.load(tmp_path)
    assert finished.state == "finished"
    rows = finished.rows[: len(stopped.rows)]
    assert [row[:-1] for row in rows] == [row[:-1] for row in stopped.rows]


def test_progress_bar_at_a_terminal(tmp_path):
    main_end, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    argv = [*WNLIB, "train", "wn", *SMALL, "--out", str(tmp_path)]
    done = subprocess.run(argv, stderr=terminal, stdout=subprocess.PIPE, text=True, check=True)
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal's output is an error on Linux
        while chunk := os.read(main_end, 4096):
            shown += chunk
    os.close(main_end)
    assert "weight norm" in shown.decode(errors="replace")
    assert "40/40" in shown.decode(errors="replace")
    assert "finished" in done.stdout


MEMORY = "[enforce fail at alloc_cpu.cpp:113] err == 0. DefaultCPUAllocator: can't allocate memory"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError(MEMORY)])
def test_no_memory_is_one_line(capsys, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(cli, "load_cifar10", fail)
    assert fails(capsys, "data") == f"wnlib: {NO_MEMORY}\n"
    other = RuntimeError("a fault of ours")
    monkeypatch.setattr(cli, "load_cifar10", lambda: exec("raise other", {"other": other}))
    with pytest.raises(RuntimeError, match="a fault of ours"):
        main(["data"])


def test_imports_change_nothing_in_the_process():
    code = (
        "import signal, torch, wnlib.lab; assert not torch.backends.cudnn.benchmark;"
        "assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL; assert torch.is_grad_enabled()"
    )
    before = torch.get_num_threads()
    subprocess.run([sys.executable, "-c", code], check=True)
    assert torch.get_num_threads() == before


def test_the_package_needs_no_figures(tmp_path):
    """What draws is the book's: neither matplotlib nor scipy nor a widget is loaded."""
    heavy = {
        "matplotlib",
        "scipy",
        "ipywidgets",
        "anywidget",
        "torchvision",
        "pooch",
        "distributed",
    }
    code = f"import sys, wnlib.lab.cli; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.home()
    )
    assert done.stdout == "[]\n"
