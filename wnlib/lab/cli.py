"""The command line: python -m wnlib data | train | compare | bench | check."""

import argparse
import codecs
import json
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

from wnlib.data import Cifar10, DataError, load_cifar10
from wnlib.lab.fetch import fetch_cifar10
from wnlib.lab.grid import Display, end_line, epoch_line, run_grid, share_of_threads
from wnlib.lab.plans import plan_grid, summarize, summary_text
from wnlib.lab.records import NO_MEMORY, Run, RunError, out_of_memory, record_epochs
from wnlib.layers import Norm
from wnlib.training import Recipe, find_device


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def main(argv: list[str] | None = None) -> int:
    """Run one command; return the exit code: 0, 1 if a check failed, 2 with a line on stderr."""
    speak_plainly()
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int | None] = arguments.command
    try:
        code = command(arguments) or 0
        sys.stdout.flush()
    except KeyboardInterrupt:
        goes_on = command in (_train, _compare)
        return _fail("stopped" + "; the same command goes on from the last whole epoch" * goes_on)
    except BrokenPipeError:  # the reader of our output left
        _drop_output()
        return 2
    except (DataError, RunError, ValueError, OSError) as error:
        _drop_output()
        return _fail(str(error))
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return _fail(NO_MEMORY)
    return code


# What our lines have beyond ASCII, for a console that cannot show it.
_PLAIN = {"−": "-", "–": "-", "±": "+/-", "…": "...", "⁶": "^6", "⁴": "4", "β": "beta", "₁": "1"}


def _plainly(error: UnicodeError) -> tuple[str | bytes, int]:
    """A handler for `codecs.register_error`: nothing is lost, whatever is not in the table."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    plain = [_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in letters]
    return "".join(plain), error.end


def speak_plainly() -> None:
    """Every line can be printed, in any encoding, even where standard output was closed."""
    codecs.register_error("wnlib.plain", _plainly)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:  # so that no file that is opened takes its place
            nowhere = os.open(os.devnull, os.O_WRONLY)
            if nowhere != number:
                os.dup2(nowhere, number)
            setattr(sys, name, open(number, "w"))  # noqa: PTH123, SIM115
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="wnlib.plain")


def _drop_output() -> None:
    """Nothing that is left to be written there can fail any more."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str) -> int:
    print(f"wnlib: {message}", file=sys.stderr)
    return 2


def json_line(value: Any) -> str:
    """Any of what `json.dumps` takes; NaN and infinity, which JSON does not have, are null."""
    return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _parser() -> Parser:
    parser = Parser(prog="wnlib", description="Train ConvPool-CNN-C on CIFAR-10, five ways.")
    commands = parser.add_subparsers(
        required=True, metavar="data | train | compare | bench | check"
    )

    def add(
        command: Callable[[argparse.Namespace], int | None], text: str, full: bool = True
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(command.__name__.strip("_"), help=text, description=text)
        sub.set_defaults(command=command)
        if full:
            sub.add_argument(
                "--full", action="store_true", help="all 60,000 images, not the sample"
            )
        sub.add_argument(
            "--json", action="store_true", help="print JSON, for machines; NaN is null"
        )
        return sub

    add(
        _data,
        "Load CIFAR-10 and check it; the full set is kept in $WNLIB_CACHE, or wnlib in the user's "
        "cache folder.",
    )
    one = add(_train, "Train one configuration; a stopped run goes on.")
    one.add_argument("norm", choices=[str(n) for n in Norm], help="the configuration")
    many = add(
        _compare,
        "Train the five configurations, or a whole grid of runs, and say how they compare; a "
        "stopped grid goes on. A LIST has commas.",
    )
    for sub in (one, many):
        sub.add_argument("--width", type=int, default=24, help="default: 24; the paper's: 96")
        sub.add_argument("--epochs", type=int, default=20, help="default: 20; the paper's: 200")
    recipes, scales = ("paper", "report"), ("linear", "exp")
    one.add_argument("--recipe", choices=recipes, default="paper", help="default: paper")
    one.add_argument("--lr", type=float, help="default: the recipe's")
    one.add_argument("--scale", choices=scales, default="linear", help="WN's g or e^s")
    one.add_argument("--seed", type=int, default=0, help="default: 0")
    one.add_argument(
        "--out", type=folder_name, help="the run's folder; default: named by the above"
    )
    for flag, kind, default, text in (
        ("--norms", _list_of(tuple(Norm)), tuple(Norm), "default: all five"),
        ("--recipes", _list_of(recipes), ("paper",), "paper (default), report"),
        ("--lrs", _numbers, (None,), "default: the recipe's own"),
        ("--scales", _list_of(scales), ("linear",), "linear (default), exp: WN's g or e^s"),
        ("--seeds", _seeds, (0,), "for instance 0-4,7; default: 0"),
    ):
        many.add_argument(flag, type=kind, default=default, metavar="LIST", help=text)
    many.add_argument(
        "--out",
        type=folder_name,
        help="folder of the runs, one folder each; with --cluster, one that all workers see; "
        "default: named by the above",
    )
    where = many.add_mutually_exclusive_group()
    where.add_argument(
        "--jobs", type=int, default=1, help="runs at a time, which share the cores; default: 1"
    )
    where.add_argument(
        "--cluster",
        type=_some,
        metavar="tcp://HOST:PORT",
        help="train on the workers of a Dask scheduler",
    )
    bench = add(_bench, "Time training: steps beside the usual script's, configurations, growth.")
    sections = ("steps", "configurations", "growth", "data", "profile")
    bench.add_argument(
        "sections",
        type=_list_of(sections),
        nargs="?",
        default=sections,
        metavar="LIST",
        help=f"of {', '.join(sections)}, with commas; default: all, a few minutes",
    )
    bench.add_argument(
        "--profile", action="store_true", help="only where a step goes, as `bench profile`"
    )
    bench.add_argument("--widths", type=int, nargs="+", default=[24, 96], help="default: 24 96")
    bench.add_argument("--rounds", type=int, default=5, help="default: 5")
    check = add(
        _check,
        "Check that training works on the device that is there, and say how fast; takes minutes.",
        full=False,
    )
    check.add_argument("--width", type=int, default=96, help="default: 96, the paper's")
    for sub in (one, many, bench, check):
        sub.add_argument("--device", default="auto", help="auto (default), cpu, cuda or mps")
        sub.add_argument("--compiled", action="store_true", help="let torch compile the network")
    return parser


def _data(arguments: argparse.Namespace) -> None:
    data = _load(arguments)
    facts = {
        "name": data.name,
        "train_images": len(data.train_images),
        "test_images": len(data.test_images),
        "digest": data.digest,
    }
    print(json_line(facts) if arguments.json else f"{data!r}, md5 sums hold")


def _load(arguments: argparse.Namespace) -> Cifar10:
    return fetch_cifar10() if arguments.full else load_cifar10()


def _train(arguments: argparse.Namespace) -> None:
    find_device(arguments.device)  # before a download that may take minutes
    recipe = _recipe(arguments, Norm(arguments.norm))
    axes = ([arguments.recipe], [arguments.lr], [arguments.scale], [arguments.seed])
    folder = arguments.out or _default_folder(arguments, *axes) / recipe.norm
    data = _load(arguments)
    bar = sys.stderr.isatty() and not arguments.json
    options = {"device": arguments.device, "compiled": arguments.compiled, "progress": bar}
    for row in record_epochs(recipe, data, folder, **options):
        if arguments.json:
            print(json_line(row._asdict()), flush=True)
        elif not bar:
            print(epoch_line(f"{recipe.norm:>7}", recipe, row), flush=True)
    if not arguments.json:
        print(f"{end_line(recipe.norm.label, Run.load(folder))}; recorded in {folder}")


def _compare(arguments: argparse.Namespace) -> None:
    axes = {name: getattr(arguments, name) for name in ("recipes", "lrs", "scales", "seeds")}
    out = arguments.out or _default_folder(arguments, **axes)
    plans = plan_grid(
        out,
        **axes,
        norms=arguments.norms,
        width=arguments.width,
        epochs=arguments.epochs,
    )
    if not arguments.cluster:
        find_device(arguments.device)  # before a download that may take minutes
        share_of_threads(arguments.jobs)
    data = _load(arguments)  # before the workers, which find it in the cache
    with closing(Display(quiet=arguments.json)) as display:
        results = run_grid(
            plans,
            data,
            jobs=arguments.jobs,
            cluster=arguments.cluster,
            device=arguments.device,
            compiled=arguments.compiled,
            display=display,
        )
    summary = summarize(results)
    runs = [run for run in results.values() if isinstance(run, Run)]
    if arguments.json:
        print(json_line({"data": data.name, **summary}))
    elif runs:
        alone = len({run.norm for run in runs}) == len(runs) == len(plans)
        from figures.plots import table

        text = table(runs) if alone else summary_text(summary)
        print(f"\nTest error in percent, here on {data!r}, recorded in {out}:\n\n{text}")
    if summary["failed"]:
        names, why = ", ".join(summary["failed"]), next(iter(summary["failed"].values()))
        raise RunError(f"{len(summary['failed'])} of {len(plans)} runs failed ({names}): {why}")


def _bench(arguments: argparse.Namespace) -> None:
    from wnlib.lab.bench import bench, bench_text

    device = find_device(arguments.device)
    data = _load(arguments)
    options = {"widths": arguments.widths, "rounds": arguments.rounds, "say": _say}
    options["compiled"] = arguments.compiled
    sections = ("profile",) if arguments.profile else arguments.sections
    result = bench(data, device, sections, **options)
    _say("")
    print(json_line(result) if arguments.json else bench_text(result))


def _check(arguments: argparse.Namespace) -> int:
    from wnlib.lab.checkup import check

    options = {"width": arguments.width, "compiled": arguments.compiled, "say": _say}
    report = check(arguments.device, **options)
    _say("")
    print(json_line(report.json()) if arguments.json else report)
    return 0 if report.passed else 1


def _say(text: str) -> None:
    """What is being done, on a line of the terminal that the next one takes over."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _recipe(arguments: argparse.Namespace, norm: Norm) -> Recipe:
    recipe: Recipe = getattr(Recipe, arguments.recipe)(norm)
    changes = {name: getattr(arguments, name) for name in ("width", "epochs", "seed")}
    if arguments.lr is not None:
        changes["lr"] = arguments.lr
    if norm.weight_normalized:
        changes["scale"] = arguments.scale
    return recipe.replace(**changes)


def _default_folder(
    arguments: argparse.Namespace,
    recipes: Sequence[str],
    lrs: Sequence[float | None],
    scales: Sequence[str],
    seeds: Sequence[int],
) -> Path:
    """Named by what all of its runs have in common, and is not the default."""
    words = [
        f"width{arguments.width}",
        *(recipes if len(recipes) == 1 else ()),
        str(arguments.epochs),
    ]
    words += [f"lr{lr:g}" for lr in lrs if len(lrs) == 1 and lr is not None]
    words += ["exp"] * (tuple(scales) == ("exp",))
    words += [f"seed{seed}" for seed in seeds if len(seeds) == 1 and seed > 0]
    return Path("runs") / "-".join(words + ["sample"] * (not arguments.full))


def _some(text: str) -> str:
    """The type of an argument that cannot be empty, as an unset variable would have it."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty")
    return text


def folder_name(text: str) -> Path:
    """The type of an argument that is a folder."""
    return Path(_some(text))


def _list_of(choices: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """The type of an argument that is a list of these."""

    def parse(text: str) -> tuple[str, ...]:
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
