"""The command line: python -m wnlib data | train | compare | bench."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from wnlib.data import Cifar10, DataError, cache_dir, load_cifar10
from wnlib.layers import Norm
from wnlib.recipe import Recipe
from wnlib.runs import Row, Run, RunError
from wnlib.step import find_device
from wnlib.train import train


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def main(argv: list[str] | None = None) -> int:
    """Run one command; return the exit code: 0, or 2 with one line on standard error."""
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], None] = arguments.command
    try:
        command(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _fail("stopped; the same command goes on from the last whole epoch")
    except BrokenPipeError:  # the reader of our output left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    except (DataError, RunError, ValueError, OSError) as error:
        return _fail(str(error))
    return 0


def _fail(message: str) -> int:
    print(f"wnlib: {message}", file=sys.stderr)
    return 2


def _parser() -> _Parser:
    parser = _Parser(prog="wnlib", description="Train ConvPool-CNN-C on CIFAR-10, five ways.")
    commands = parser.add_subparsers(required=True, metavar="data | train | compare | bench")

    def add(command: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(command.__name__.strip("_"), help=text, description=text)
        sub.set_defaults(command=command)
        sub.add_argument("--full", action="store_true", help="all 60,000 images, not the sample")
        sub.add_argument("--json", action="store_true", help="print JSON, for machines")
        return sub

    add(_data, f"Load CIFAR-10 and check it; the full set is kept in {cache_dir()}.")
    one = add(_train, "Train one configuration; a stopped run goes on.")
    one.add_argument("norm", choices=[str(n) for n in Norm], help="the configuration")
    five = add(_compare, "Train the five configurations and print the table.")
    for sub in (one, five):
        sub.add_argument(
            "--recipe", choices=("paper", "report"), default="paper", help="default: paper"
        )
        sub.add_argument("--width", type=int, default=24, help="default: 24; the paper's: 96")
        sub.add_argument("--epochs", type=int, default=20, help="default: 20; the paper's: 200")
        sub.add_argument("--lr", type=float, help="default: the recipe's")
        sub.add_argument(
            "--scale", choices=("linear", "exp"), default="linear", help="WN's g or e^s"
        )
        sub.add_argument("--seed", type=int, default=0, help="default: 0")
        what = "the run" if sub is one else "the runs, one folder each"
        sub.add_argument("--out", type=Path, help=f"folder of {what}; default: named by the above")
    bench = add(_bench, "Time training steps beside the usual PyTorch script.")
    bench.add_argument("--widths", type=int, nargs="+", default=[24, 96], help="default: 24 96")
    bench.add_argument("--rounds", type=int, default=5, help="default: 5")
    for sub in (one, five, bench):
        sub.add_argument("--device", default="auto", help="auto (default), cpu, cuda or mps")
    return parser


def _data(arguments: argparse.Namespace) -> None:
    data = load_cifar10(arguments.full)
    facts = {
        "name": data.name,
        "train_images": len(data.train_images),
        "test_images": len(data.test_images),
        "digest": data.digest,
    }
    print(json.dumps(facts) if arguments.json else f"{data!r}, md5 sums hold")


def _train(arguments: argparse.Namespace) -> None:
    find_device(arguments.device)  # before a download that may take minutes
    recipe, folder = _recipe(arguments, Norm(arguments.norm))
    _follow(arguments, recipe, load_cifar10(arguments.full), arguments.out or folder)


def _compare(arguments: argparse.Namespace) -> None:
    from wnlib.plots import table

    find_device(arguments.device)
    plans = [_recipe(arguments, norm) for norm in Norm]
    data = load_cifar10(arguments.full)
    runs = [_follow(arguments, recipe, data, folder) for recipe, folder in plans]
    if arguments.json:
        from wnlib.runs import compare

        print(json.dumps(compare(runs)))
    else:
        print(f"\nTest error in percent, here on {data!r}:\n\n{table(runs)}")


def _bench(arguments: argparse.Namespace) -> None:
    from wnlib.bench import compare_steps

    device = find_device(arguments.device)
    data = load_cifar10(arguments.full)
    if min(arguments.widths) < 1 or arguments.rounds < 1:
        raise ValueError("widths and rounds are whole numbers from 1 up")

    def say(text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r{text} ", end="", file=sys.stderr, flush=True)

    results = []
    for width in arguments.widths:
        results.append(compare_steps(width, data, device, rounds=arguments.rounds, say=say))
    say("\n")
    if arguments.json:
        print(json.dumps(results))
        return
    print(f"Images a second of full training steps with weight norm, on {device.type}:\n")
    print(f"{'width':>5}{'usual script':>15}{'wnlib':>9}{'ratio':>8}")
    for row in results:
        print(f"{row['width']:>5}{row['plain']:>15.0f}{row['wnlib']:>9.0f}{row['ratio']:>8.2f}")


def _recipe(arguments: argparse.Namespace, norm: Norm) -> tuple[Recipe, Path]:
    recipe: Recipe = getattr(Recipe, arguments.recipe)(norm)
    changes = {name: getattr(arguments, name) for name in ("width", "epochs", "seed")}
    if arguments.lr is not None:
        changes["lr"] = arguments.lr
    if norm.weight_normalized:
        changes["scale"] = arguments.scale
    recipe = recipe.scaled(**changes)
    if arguments.out is not None:
        return recipe, arguments.out / norm
    words = [f"width{recipe.width}", recipe.name, str(recipe.epochs)]
    words += [f"lr{recipe.lr:g}"] * (arguments.lr is not None)
    words += ["exp"] * (arguments.scale == "exp") + [f"seed{recipe.seed}"] * (recipe.seed > 0)
    words += [] if arguments.full else ["sample"]
    return recipe, Path("runs") / "-".join(words) / norm


def _follow(arguments: argparse.Namespace, recipe: Recipe, data: Cifar10, folder: Path) -> Run:
    """Train, saying how it goes; return the recorded run."""
    bar = sys.stderr.isatty() and not arguments.json
    for row in train(recipe, data, folder, device=arguments.device, progress=bar):
        if arguments.json and arguments.command is _train:
            print(json.dumps(row._asdict()), flush=True)
        elif not bar and not arguments.json:
            print(_line(recipe, row), flush=True)
    run = Run.load(folder)
    if not arguments.json:
        s = run.summary()
        print(
            f"{recipe.norm.label}: {run.state}; test error {100 * s.final_error:.2f} %, best "
            f"{100 * s.best_error:.2f} % in epoch {s.best_epoch}; recorded in {folder}"
        )
    return run


def _line(recipe: Recipe, row: Row) -> str:
    return (
        f"{recipe.norm:>7} epoch {row.epoch:>3} of {recipe.epochs}: training loss "
        f"{row.train_loss:.4f}, test error {100 * row.test_error:.2f} %, {row.seconds:.1f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
