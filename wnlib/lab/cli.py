"""The command line: python -m wnlib data | train | compare."""

import argparse
import os
import sys
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn

from wnlib.data import Cifar10, DataError, load_cifar10
from wnlib.lab import grid
from wnlib.lab.fetch import fetch_cifar10
from wnlib.lab.records import Run, RunError, record_epochs
from wnlib.layers import Norm
from wnlib.training import State, find_device

STATUS = "Exit status: 0; 2 with a line that says what is wrong; train: 3 if the run diverged."
STOPPED = "stopped; the same command goes on from the last whole epoch"
NO_MEMORY = "there is not enough memory; a smaller width takes less. What is recorded stays"


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit status, see `STATUS`."""
    arguments = _parser().parse_args(argv)
    return guarded("wnlib", lambda: arguments.command(arguments))


def guarded(name: str, command: Callable[[], int]) -> int:
    """The command's exit status, or 2 and one line on standard error for what stopped it."""
    if isinstance(sys.stdout, TextIOWrapper):  # as on standard error, every line can be printed
        sys.stdout.reconfigure(errors="backslashreplace")
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")  # joblib's, after Ctrl-C
    try:
        code = command()
        print(end="", flush=True)
        return code
    except BrokenPipeError:  # the reader of our output left, and nothing more is written to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print(f"{name}: {STOPPED}", file=sys.stderr)
    except (DataError, RunError, ValueError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
    except (MemoryError, RuntimeError) as error:  # on a CPU torch has no class for it
        if "memory" not in f"{error!r}".lower():
            raise
        print(f"{name}: {NO_MEMORY}", file=sys.stderr)
    return 2


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
    text = "Train the five configurations, or a whole grid of runs, and say how they compare; "
    many = add("compare", _compare, text + "a stopped grid goes on. A LIST has commas.")
    labels = ", ".join(f"{norm}: {norm.label}" for norm in Norm)
    one.add_argument("norms", type=words, metavar=" | ".join(Norm), help=labels)
    many.add_argument("--norms", type=words, default=[*Norm], metavar="LIST", help="default: all")
    late = "Adam's beta1 in the second half; default: the recipe's, but 0.9 on the sample"
    for sub, plural, value in ((one, "", "VALUE"), (many, "s", "LIST")):
        for axis, kind, default, text in (
            ("recipe", words, "paper", "paper (default), report"),
            ("lr", words, None, "learning rate; default: the recipe's"),
            ("scale", words, "linear", "linear (default), exp: weight norm's g or e^s"),
            ("seed", seeds, 0, "default: 0; a list may be 0-4,7"),
        ):
            options = {"dest": f"{axis}s", "type": kind, "default": [default], "metavar": value}
            sub.add_argument(f"--{axis}{plural}", help=text, **options)
        sub.add_argument("--width", type=int, default=24, help="default: 24; the paper's: 96")
        sub.add_argument("--epochs", type=int, default=20, help="default: 20; the paper's: 200")
        sub.add_argument("--late-beta1", type=float, help=late)
        text = "default: named by the above, below runs"
        sub.add_argument("--out", type=folder_name, metavar="FOLDER", help=text)
        sub.add_argument("--device", default="auto", help="auto (default), cpu, cuda or mps")
    where = many.add_mutually_exclusive_group()
    text = "runs at a time, which share the cores; default: 1"
    where.add_argument("--jobs", type=int, default=1, help=text)
    text = "train on the workers of a Dask scheduler, which all see the folder --out"
    where.add_argument("--cluster", metavar="tcp://HOST:PORT", help=text)
    return parser


# The types of arguments: a ValueError is told with the function's name.


def words(text: str) -> list[str]:
    """A list with commas."""
    return text.split(",")


def seeds(text: str) -> list[int]:
    """ "0-4,7" is 0, 1, 2, 3, 4, 7."""
    found: list[int] = []
    for word in text.split(","):
        ends = [int(end) for end in word.split("-")]
        several = range(ends[0], ends[-1] + 1)
        if len(ends) > 2 or not 1 <= len(several) <= 1000:
            raise ValueError
        found += several
    return found


def folder_name(text: str) -> Path:
    """A folder; what an unset variable leaves is none."""
    if not text.strip():
        raise ValueError
    return Path(os.path.expanduser(text))  # noqa: PTH111, it leaves the home of nobody alone


def _data(arguments: argparse.Namespace) -> int:
    print(f"{_load(arguments)!r}, md5 sums hold")
    return 0


def _load(arguments: argparse.Namespace) -> Cifar10:
    return fetch_cifar10() if arguments.full else load_cifar10()


def _train(arguments: argparse.Namespace) -> int:
    plans = _plans(arguments)
    if len(plans) > 1:
        raise ValueError("train takes one value of each; compare takes lists")
    recipe, folder = plans[0].recipe, (arguments.out or plans[0].folder).absolute()
    data, bar = _begin(arguments, folder), bool(sys.stderr) and sys.stderr.isatty()
    for row in record_epochs(recipe, data, folder, device=arguments.device, progress=bar):
        if not bar:
            print(grid.epoch_line(recipe.norm.label, recipe, row), flush=True)
    run = Run.load(folder)
    print(f"{grid.end_line(run.norm.label, run)}; recorded in {folder}")
    return 3 if run.state is State.DIVERGED else 0


def _compare(arguments: argparse.Namespace) -> int:
    grid.share_of_threads(arguments.jobs)  # before a download that may take minutes
    plans = _plans(arguments)
    out = Path(os.path.commonpath([plan.folder.parent for plan in plans]))
    data = _begin(arguments, out)  # before the workers, which find it in the cache
    where = {name: getattr(arguments, name) for name in ("jobs", "cluster", "device")}
    results = grid.run_grid(plans, data, show=True, **where)
    print(
        f"\nTest error in percent, here on {data!r}, recorded in {out}:\n\n{grid.summary(results)}"
    )
    failed = {plan.name: run for plan, run in results.items() if not isinstance(run, Run)}
    if failed:
        name, why = next(iter(failed.items()))
        raise RunError(f"{len(failed)} of {len(plans)} runs failed, {name} since {why}")
    return 0


def _plans(arguments: argparse.Namespace) -> list[grid.Plan]:
    """The runs that a command trains, in a folder that is named by what they have in common."""
    axes = {name: getattr(arguments, name) for name in ("recipes", "lrs", "scales", "seeds")}
    names = [f"width{arguments.width}", str(arguments.epochs)]
    for axis, word in zip(axes, ("", "lr", "", "seed"), strict=True):
        if len(axes[axis]) == 1 and axes[axis][0] not in (None, "linear", 0):
            names.append(f"{word}{axes[axis][0]}")
    changes = {"width": arguments.width, "epochs": arguments.epochs}
    if (late := arguments.late_beta1) is not None:
        changes["late_beta1"] = late
        names.append(f"late{late}")
    elif not arguments.full:  # with the fall to 0.5 weight norm explodes on the sample
        changes["late_beta1"] = 0.9
    names += [] if arguments.full else ["sample"]
    out = arguments.out or Path("runs") / "-".join(names)
    return grid.plan_grid(out, norms=arguments.norms, **axes, **changes)


def _begin(arguments: argparse.Namespace, folder: Path) -> Cifar10:
    """Say what is trained where, and load the data."""
    # Before a download that may take minutes.
    where = getattr(arguments, "cluster", None) or find_device(arguments.device)
    images = "all of CIFAR-10" if arguments.full else "the sample"
    size = f"width {arguments.width}, epochs {arguments.epochs}"
    print(f"{size}, on {images}, on {where}, in {folder}", flush=True)
    grid.speed_up_process()
    return _load(arguments)
