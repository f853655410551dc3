"""The command line: python -m wnlib data | train | compare."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

from wnlib.data import Cifar10, DataError, cache_dir, load_cifar10
from wnlib.lab.fetch import fetch_cifar10
from wnlib.lab.grid import (
    Plan,
    end_line,
    epoch_line,
    plan_grid,
    run_grid,
    share_of_threads,
    speed_up_process,
    summary,
)  # fmt: skip
from wnlib.lab.records import Run, RunError, memory_told, record_epochs
from wnlib.layers import Norm
from wnlib.training import State, autocast_type, find_device

GOES_ON = "stopped; the same command goes on from the last whole epoch"
STATUS = (
    "Exit status: 0, or 2 with a line that says what is wrong; of train 3 for a run that diverged."
)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit status, see `STATUS`."""
    return guarded("wnlib", lambda: _run(argv))


def guarded(name: str, command: Callable[[], int]) -> int:
    """The command's exit status, or 2 and one line on standard error for what stopped it."""
    for number, stream in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, stream) is None:  # it was closed; no file that is opened takes its place
            setattr(sys, stream, os.fdopen(_null(number), "w"))
        if isinstance(getattr(sys, stream), TextIOWrapper):  # every line can be printed
            getattr(sys, stream).reconfigure(errors="backslashreplace")
    try:
        with memory_told():
            code = command()
            sys.stdout.flush()
            return code
    except BrokenPipeError:  # the reader of our output left
        _null(1)
    except KeyboardInterrupt:
        print(f"{name}: {GOES_ON}", file=sys.stderr)
    except (DataError, RunError, ValueError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
    return 2


def _null(number: int) -> int:
    """What is written to that descriptor goes nowhere, from now on."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    return nowhere if nowhere == number else os.dup2(nowhere, number)


def _run(argv: list[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    return arguments.command(arguments)


def _parser() -> Parser:
    about = "Train ConvPool-CNN-C on CIFAR-10, five ways."
    parser = Parser(prog="python -m wnlib", description=about, epilog=STATUS)
    commands = parser.add_subparsers(required=True, metavar="data | train | compare")

    def add(name: str, command: Callable[[argparse.Namespace], int], text: str) -> Parser:
        sub = commands.add_parser(name, help=text, description=text, epilog=STATUS)
        sub.set_defaults(command=command)
        sub.add_argument("--full", action="store_true", help="all 60,000 images, not the sample")
        return sub

    kept = "the full set is kept in $WNLIB_CACHE, or wnlib in the user's cache folder."
    add("data", _data, f"Load CIFAR-10 and check it; {kept}")
    one = add("train", _train, "Train one configuration; a stopped run goes on.")
    labels = ", ".join(f"{norm}: {norm.label}" for norm in Norm)
    one.add_argument("norm", choices=[*map(str, Norm)], metavar=" | ".join(Norm), help=labels)
    text = "Train the five configurations, or a whole grid of runs, and say how they compare; "
    many = add("compare", _compare, text + "a stopped grid goes on. A LIST has commas.")
    recipes, scales = ("paper", "report"), ("linear", "exp")
    one.add_argument("--recipe", choices=recipes, default="paper", help="default: paper")
    one.add_argument("--lr", type=float, help="default: the recipe's")
    one.add_argument("--scale", choices=scales, default="linear", help="WN's g or e^s")
    one.add_argument("--seed", type=int, default=0, help="default: 0")
    for flag, kind, default, text in (
        ("--norms", _list_of(tuple(Norm)), tuple(Norm), "default: all five"),
        ("--recipes", _list_of(recipes), ("paper",), "paper (default), report"),
        ("--lrs", _numbers, (None,), "default: the recipe's own"),
        ("--scales", _list_of(scales), ("linear",), "linear (default), exp: WN's g or e^s"),
        ("--seeds", _seeds, (0,), "for instance 0-4,7; default: 0"),
    ):
        many.add_argument(flag, type=kind, default=default, metavar="LIST", help=text)
    where = many.add_mutually_exclusive_group()
    text = "runs at a time, which share the cores; default: 1"
    where.add_argument("--jobs", type=int, default=1, help=text)
    text = "train on the workers of a Dask scheduler, which all see the folder --out"
    where.add_argument("--cluster", type=_some, metavar="tcp://HOST:PORT", help=text)
    late = "Adam's beta1 in the second half; default: the recipe's, but 0.9 on the sample"
    for sub in (one, many):
        sub.add_argument("--width", type=int, default=24, help="default: 24; the paper's: 96")
        sub.add_argument("--epochs", type=int, default=20, help="default: 20; the paper's: 200")
        sub.add_argument("--late-beta1", type=_part, help=late)
        text = "default: named by the above, below runs"
        sub.add_argument("--out", type=folder_name, metavar="FOLDER", help=text)
        sub.add_argument("--device", default="auto", help="auto (default), cpu, cuda or mps")
    return parser


def _data(arguments: argparse.Namespace) -> int:
    where = f"in {cache_dir()}" if arguments.full else "in the package"
    print(f"CIFAR-10, {_images(arguments)}, {where}", flush=True)
    print(f"{_load(arguments)!r}, md5 sums hold")
    return 0


def _images(arguments: argparse.Namespace) -> str:
    return "50,000 + 10,000 images" if arguments.full else "the sample of 2,000 + 1,000 images"


def _load(arguments: argparse.Namespace) -> Cifar10:
    return fetch_cifar10() if arguments.full else load_cifar10()


def _train(arguments: argparse.Namespace) -> int:
    axes = {f"{name}s": (getattr(arguments, name),) for name in ("recipe", "lr", "scale", "seed")}
    [plan] = _plans(arguments, norms=(Norm(arguments.norm),), **axes)
    folder = arguments.out.absolute() if arguments.out else plan.folder
    _open(arguments, [plan], folder)
    data, bar = _load(arguments), sys.stderr.isatty()
    speed_up_process()
    options = {"device": arguments.device, "progress": bar}
    for row in record_epochs(plan.recipe, data, folder, **options):
        if not bar:
            print(epoch_line(plan.recipe.norm.label, plan.recipe, row), flush=True)
    run = Run.load(folder)
    print(f"{end_line(run.norm.label, run)}; recorded in {folder}")
    return 3 if run.state is State.DIVERGED else 0


def _compare(arguments: argparse.Namespace) -> int:
    share_of_threads(arguments.jobs)  # before a download that may take minutes
    axes = {name: getattr(arguments, name) for name in ("recipes", "lrs", "scales", "seeds")}
    plans = _plans(arguments, norms=arguments.norms, **axes)
    out = Path(os.path.commonpath([plan.folder.parent for plan in plans]))
    _open(arguments, plans, out)
    data = _load(arguments)  # before the workers, which find it in the cache
    speed_up_process()
    options = {name: getattr(arguments, name) for name in ("jobs", "cluster", "device")}
    results = run_grid(plans, data, show=True, **options)
    print(f"\nTest error in percent, here on {data!r}, recorded in {out}:\n\n{summary(results)}")
    failed = {plan.name: run for plan, run in results.items() if not isinstance(run, Run)}
    if failed:
        name, why = next(iter(failed.items()))
        raise RunError(f"{len(failed)} of {len(plans)} runs failed, {name} since {why}")
    return 0


def _plans(arguments: argparse.Namespace, **axes: Sequence[Any]) -> list[Plan]:
    """The runs that a command trains, in a folder that is named by what they have in common."""
    late, whole = arguments.late_beta1, arguments.full
    words = [f"width{arguments.width}", arguments.epochs]
    for word, axis in (("", "recipes"), ("lr", "lrs"), ("", "scales"), ("seed", "seeds")):
        [value, *more] = axes[axis]
        if not more and value not in (None, "linear", 0):
            words.append(f"{word}{value}")
    words += [] if late is None else [f"late{late}"]
    words += [] if whole else ["sample"]
    out = arguments.out or Path("runs") / "-".join(map(str, words))
    changes = {"width": arguments.width, "epochs": arguments.epochs}
    if late is not None or not whole:  # with the fall to 0.5 weight norm diverges on the sample
        changes["late_beta1"] = 0.9 if late is None else late
    return plan_grid(out, **axes, **changes)


def _open(arguments: argparse.Namespace, plans: Sequence[Plan], folder: Path) -> None:
    """A command's first line: what it trains, on what, where."""
    where = f"on {arguments.cluster}" if getattr(arguments, "cluster", None) else ""
    if not where:
        device = find_device(arguments.device)  # before a download that may take minutes
        where = f"{device}, {str(autocast_type(device)).removeprefix('torch.')}"
    print(
        f"{_images(arguments)}, width {arguments.width}, epochs {arguments.epochs}, {where}, in "
        f"{folder}",
        flush=True,
    )
    falls = any(plan.recipe.decay_from <= 1 - 1 / plan.recipe.epochs for plan in plans)
    if falls and not arguments.full and arguments.late_beta1 is None:
        print("On the sample Adam's beta1 stays at 0.9; the paper's fall is --late-beta1 0.5")


def _some(text: str) -> str:
    """The type of an argument that cannot be empty, as an unset variable would have it."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty")
    return text


def _part(text: str) -> float:
    """The type of an argument from 0 to 1, 1 left out."""
    if not 0 <= (value := float(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to below 1")
    return value


def folder_name(text: str) -> Path:
    """The type of an argument that is a folder."""
    try:
        return Path(_some(text)).expanduser()
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"{text!r} is in the home of nobody") from None


def _list_of(choices: Sequence[Any]) -> Callable[[str], tuple[Any, ...]]:
    """The type of an argument that is a list of these."""

    def parse(text: str) -> tuple[Any, ...]:
        for word in text.split(","):
            if word not in choices:
                names = ", ".join(map(str, choices))
                raise argparse.ArgumentTypeError(f"{word!r} is not one of {names}")
        return tuple(choices[choices.index(word)] for word in dict.fromkeys(text.split(",")))

    return parse


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(dict.fromkeys(float(word) for word in text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not numbers with commas") from None


def _seeds(text: str) -> tuple[int, ...]:
    """ "0-4,7" is 0, 1, 2, 3, 4, 7."""
    seeds: dict[int, None] = {}
    for word in text.split(","):
        match = re.fullmatch(r"(\d{1,20})(?:-(\d{1,20}))?", word, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < first + 1000:
            raise argparse.ArgumentTypeError(f"{word!r} is not a seed, or up to 1000 as in 0-4,7")
        seeds |= dict.fromkeys(range(first, last + 1))
    return tuple(seeds)
