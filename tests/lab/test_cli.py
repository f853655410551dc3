"""The command line as a user types it: what it prints, and one line for what goes wrong."""

import contextlib
import json
import math
import os
import pty
import re
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

import wnlib
from wnlib import Norm
from wnlib.lab import Run
from wnlib.lab import cli as __main__
from wnlib.lab.cli import json_line, main
from wnlib.lab.records import NO_MEMORY, out_of_memory

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
        (["train", "wn", "--epochs", "0"], "epochs is from 1 to 100,000, not 0"),
        (["train", "wn", "--lr", "-1"], "lr is a number above 0"),
        (["train", "none", "--device", "tpu"], "device is auto, cpu, cuda or mps, not 'tpu'"),
        (["compare", "--recipes", "paper,mine"], "'mine' is not one of paper, report"),
        (["compare", "--norms", "wn,layer_norm"], "'layer_norm' is not one of none, wn"),
        (["compare", "--norms", "none", "--scales", "exp"], "exp is a scale of weight norm"),
        (["compare", "--lrs", "0.1,fast"], "'0.1,fast' is not numbers with commas"),
        (["compare", "--lrs", "0.1,nan"], "lr is a number above 0"),
        (["compare", "--seeds=-1"], "seed"),
        (["compare", "--jobs", "0"], "jobs is a whole number from 1 up"),
        (["compare", "--jobs", "2", "--cluster", "tcp://a:1"], "not allowed with"),
        (["bench", "--widths", "0"], "widths"),
        (["train", "wn", "--out", ""], "it is empty"),
        (["compare", "--out", " "], "it is empty"),
        (["compare", "--norms", ""], "'' is not one of none, wn"),
        (["compare", "--recipes", "paper,"], "'' is not one of paper, report"),
        (["compare", "--lrs", ""], "'' is not numbers with commas"),
        (["train", ""], "norm"),
        (["train", "wn", "--width", ""], "width"),
        (["bench", ""], "'' is not one of steps"),
        (["compare", "--cluster", ""], "it is empty"),
        (["compare", "--cluster", "tls://127.0.0.1:9"], "address is tcp://HOST:PORT, not tls://"),
        (["compare", "--cluster", "tcp://127.0.0.1:9"], "no Dask scheduler answers at tcp://127"),
        (["train", "wn", "--device", ""], "device is auto, cpu, cuda or mps, not ''"),
    ],
)
def test_bad_input_is_one_line(capsys, argv, said):
    assert said in fails(capsys, *argv)


def test_unwritable_folder(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    said = fails(capsys, "train", "wn", *SMALL, "--out", tmp_path / "file" / "run")
    assert "cannot be written" in said


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


def strictly(text):
    """JSON as its standard has it: without NaN and Infinity."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_of_a_run_that_diverges_is_json(capsys, tmp_path):
    """The loss of a rate like this is NaN within the first epoch."""
    command = ["train", "none", *SMALL, "--lr", "1e30", "--json", "--out", str(tmp_path)]
    assert main(command) == 0
    (row,) = Run.load(tmp_path).rows
    assert math.isnan(row.train_loss)
    told = strictly(capsys.readouterr().out)
    assert (told["epoch"], told["train_loss"]) == (1, None)
    assert told["test_error"] == row.test_error


def test_json_of_compared_runs_is_json(capsys, tmp_path):
    """Two seeds, of one of which somebody else recorded no test error."""
    command = ["compare", *SMALL[:4], "--recipes", "report", "--epochs", "1", "--device", "cpu"]
    command += ["--norms", "none", "--seeds", "0,1", "--out", str(tmp_path)]
    assert main(command) == 0
    capsys.readouterr()
    run = Run.load(tmp_path / "seed1" / "none")
    run.rows = [run.rows[0]._replace(test_error=math.nan)]
    run.save(tmp_path / "seed1" / "none")
    assert main([*command, "--json"]) == 0
    told = strictly(capsys.readouterr().out)
    assert [run["final_error"] is None for run in told["runs"]] == [False, True]
    assert [told["settings"][0][key] for key in ("n", "mean", "sd")] == [2, None, None]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_json_keeps_all_but_what_is_no_number(value):
    expected = json.loads(json.dumps(value), parse_constant=lambda _: None)
    assert strictly(json_line(value)) == expected
    assert json_line((value, value)) == json_line([value, value])


def test_another_recipe_in_the_same_folder(capsys, tmp_path):
    assert main(["train", "wn", *SMALL, "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    said = fails(capsys, "train", "wn", *SMALL, "--seed", "1", "--out", tmp_path)
    assert "seed 0, not 1" in said
    assert Run.load(tmp_path).recipe.seed == 0


def test_compare_trains_five_and_prints_the_table(capsys, tmp_path):
    command = ["compare", *SMALL[:4], "--recipes", "report", "--epochs", "1", "--device", "cpu"]
    command += ["--out", str(tmp_path)]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert all(norm.label in text for norm in Norm)
    assert f"recorded in {tmp_path}:" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(Norm)
    assert main([*command, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    told = json.loads(captured.out)
    assert [run["name"] for run in told["runs"]] == [str(norm) for norm in Norm]
    for run in told["runs"]:
        assert run["final_error"] == Run.load(run["folder"]).summary().final_error


def test_compare_names_what_failed_and_prints_the_rest(capsys, tmp_path):
    """One of two runs is there already; the other's folder holds something else."""
    small = ["--width", "2", "--epochs", "1", "--device", "cpu"]
    for norm, seed in (("none", "0"), ("wn", "7")):
        command = ["train", norm, "--recipe", "report", *small, "--seed", seed]
        assert main([*command, "--out", str(tmp_path / norm)]) == 0
    capsys.readouterr()
    command = ["compare", "--recipes", "report", "--norms", "none,wn", *small]
    assert main([*command, "--out", str(tmp_path), "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("wnlib: 1 of 2 runs failed (wn): ")
    assert "seed 7, not 0" in captured.err
    assert captured.err.count("\n") == 1
    told = json.loads(captured.out)
    assert ([run["name"] for run in told["runs"]], list(told["failed"])) == (["none"], ["wn"])


@given(st.sets(st.integers(0, 2**64 - 1), min_size=1, max_size=5), st.integers(0, 99))
def test_seeds(firsts, more):
    texts = [str(first) if not more else f"{first}-{first + more}" for first in firsts]
    expected = [seed for first in firsts for seed in range(first, first + more + 1)]
    arguments = __main__._parser().parse_args(["compare", "--seeds", ",".join(texts)])
    assert arguments.seeds == tuple(dict.fromkeys(expected))


@pytest.mark.parametrize(
    "text", ["", "0-", "-4", "4-2", "0,,1", "1.5", "0 1", "0-1-2", "0-99999999"]
)
def test_seeds_that_are_none(capsys, text):
    assert "is not a seed, or up to 1000 as in 0-4,7" in fails(capsys, "compare", f"--seeds={text}")


@pytest.mark.parametrize(
    ("extra", "folder"),
    [
        ([], "width24-paper-20-sample"),
        (["--seeds", "2", "--lrs", "0.01"], "width24-paper-20-lr0.01-seed2-sample"),
        (["--seeds", "1,2", "--full"], "width24-paper-20"),
        (["--recipes", "paper,report"], "width24-20-sample"),
        (["--scales", "exp", "--width", "96"], "width96-paper-20-exp-sample"),
    ],
)
def test_default_folder_of_a_grid(extra, folder):
    arguments = __main__._parser().parse_args(["compare", *extra])
    axes = {name: getattr(arguments, name) for name in ("recipes", "lrs", "scales", "seeds")}
    assert str(__main__._default_folder(arguments, **axes)) == f"runs/{folder}"


def test_default_folders_tell_runs_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    variants = [[], ["--seed", "1"], ["--lr", "0.01"], ["--recipe", "paper"], ["--scale", "exp"]]
    for extra in variants:
        main(["train", "wn", *SMALL, "--width", "1", "--epochs", "1", *extra])
    assert len(list(tmp_path.glob("runs/*/wn/run.json"))) == len(variants)


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
    command = [sys.executable, "-m", "wnlib", "train", "wn", *SMALL, "--epochs", "7"]
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
    assert 2 <= len(stopped.rows) < 7
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


# --- what goes wrong, and consoles that are not UTF-8


def command(*argv, code="", **options):
    """The command in a process of its own, after some lines of Python; what it said."""
    lines = [code, "import sys", "from wnlib.lab.cli import main", f"sys.exit(main({[*argv]!r}))"]
    options = {"capture_output": True, "text": True, "timeout": 300} | options
    return subprocess.run([sys.executable, "-c", "\n".join(lines)], **options)


EACH = """
import json, sys
from wnlib.lab.cli import main
for argv in json.loads(sys.argv[1]):
    try:
        code = main(argv)
    except SystemExit as stopped:
        code = stopped.code
    print("ended with", code, flush=True)  # standard error waits for nobody
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder for commands that train: the first one does, the others find it done."""
    return tmp_path_factory.mktemp("shared")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_every_command_prints_in_any_encoding(shared, encoding):
    """Without loss: what an encoding lacks is spelled out."""
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    small = ["--width", "1", "--epochs", "1", "--device", "cpu"]
    commands = {
        "grid": ["compare", *small, "--recipes", "report", "--norms", "none,wn", "--seeds", "0,1",
                 "--out", "é−日"],
        "data": ["data"],
        "help": ["compare", "--help"],
        "refused": ["train", "wn", "--seed", "-1"],
        "train": ["train", "wn", *small, "--recipe", "report", "--out", "é−日/seed0/wn"],
    }  # fmt: skip
    code = [sys.executable, "-c", EACH, json.dumps([*commands.values()])]
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}  # in the order they came
    done = subprocess.run(code, env=environment, cwd=shared, timeout=300, **both)
    parts = re.split(r"ended with (\d)\n", done.stdout.decode(encoding))
    said = dict(zip(commands, parts[::2], strict=False))  # and what comes after the last
    ended = dict(zip(commands, parts[1::2], strict=True))
    assert ended == {name: "2" if name == "refused" else "0" for name in commands}, parts
    lacks = encoding != "utf-8"
    assert ("wn - none" if lacks else "wn − none") in said["grid"]
    assert ("± " if encoding != "ascii" else "+/- ") in said["grid"]
    assert ("\\u65e5" if lacks else "日") in said["train"]
    assert ("2^64 - 1" if lacks else "2⁶⁴ − 1") in said["refused"]


SPOKEN = """
import json, sys
sys.path[:0] = ["tools"]
import record
from wnlib.lab.bench import bench_text
from wnlib.lab.checks import APART, _bound
from wnlib.lab.cli import speak_plainly
speak_plainly()
print(bench_text(json.load(open("book/records/bench.json"))))
try:
    _bound("another rate and β₁: weights apart by", 1, APART)
except Exception as error:
    print(error)
record.main([])
"""


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_what_takes_minutes_to_say_prints_in_any_encoding(encoding):
    """A benchmark's tables, a check's failure, and the experiments that can be recorded."""
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    root = Path(wnlib.__file__).parents[1]
    command = [sys.executable, "-c", SPOKEN]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    said = done.stdout.decode(encoding)
    assert "Milliseconds a step" in said
    assert "another rate and beta1: weights apart by 1;" in said
    assert "The five configurations, 20 epochs" in said
    assert "\\" not in said, "nothing had to be spelled out"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["exp", "--jobs", "0", "--out", "日"], "jobs is a whole number from 1 up, not 0"),
        (["exp", "--out", ""], "argument --out: it is empty (see --help)"),
        (["dance"], "argument name: invalid choice: 'dance' (choose from"),
    ],
)
def test_record_s_failures_are_one_line(argv, said, tmp_path):
    """In a console that cannot show everything."""
    tool = Path(wnlib.__file__).parents[1] / "tools" / "record.py"
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(tool.parents[1])}
    command = [sys.executable, tool, *argv]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith(f"record: {said}")


NO_HOME = """
import os, sys
sys.modules["pwd"] = None
for name in ("HOME", "USERPROFILE", "XDG_CACHE_HOME", "WNLIB_CACHE"):
    os.environ.pop(name, None)
"""


def test_without_a_home_only_what_needs_the_cache_fails(tmp_path):
    assert command("data", code=NO_HOME).returncode == 0
    done = command("data", "--full", code=NO_HOME)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "set WNLIB_CACHE" in done.stderr


def test_closed_and_full_outputs(tmp_path):
    python = f"{shlex.quote(sys.executable)} -m wnlib data"
    done = subprocess.run(["bash", "-c", f"{python} >&-"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    if os.path.exists("/dev/full"):  # noqa: PTH110
        done = subprocess.run(
            ["bash", "-c", f"{python} >/dev/full"], capture_output=True, text=True
        )
        assert done.returncode == 2
        assert done.stderr == "wnlib: [Errno 28] No space left on device\n"


def test_out_of_memory_is_one_line_and_leaves_no_folder(capsys, tmp_path):
    argv = ["train", "wn", "--width", "100000", "--recipe", "report", "--device", "cpu"]
    said = fails(capsys, *argv, "--out", tmp_path / "a" / "b")
    assert said == f"wnlib: {NO_MEMORY}\n"
    assert list(tmp_path.iterdir()) == []
    assert out_of_memory(MemoryError())
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert not out_of_memory(RuntimeError("shapes differ"))


def test_ctrl_c_in_data_does_not_speak_of_epochs():
    stop = "import wnlib.lab.cli as c\nimport os, signal, threading\n"
    stop += "threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
    stop += "c.load_cifar10 = lambda: threading.Event().wait(60)"
    done = command("data", code=stop)
    assert (done.returncode, done.stderr) == (2, "wnlib: stopped\n")
