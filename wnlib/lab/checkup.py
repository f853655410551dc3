"""All checks of the device that is there, in a table."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from wnlib.lab.checks import CHECKS, Failed, NotHere, Place
from wnlib.lab.estimates import generators_kept
from wnlib.lab.records import out_of_memory, provenance
from wnlib.training import find_device


class Result(NamedTuple):
    """One check."""

    name: str  #: what was tried
    outcome: str  #: "passed", "failed" or "not here"
    said: str  #: what was measured, or why it failed
    seconds: float  #: how long it took


@dataclass
class Report:
    """What passed; a notebook and `print` show it as a table."""

    card: str  #: the device's name
    torch: str  #: its version
    precision: str  #: that convolutions run in
    compiled: bool
    results: list[Result] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(result.outcome != "failed" for result in self.results)

    def json(self) -> dict[str, Any]:
        """For machines."""
        checks = [result._asdict() for result in self.results]
        return {**vars(self), "passed": self.passed, "results": checks}

    def __repr__(self) -> str:
        how = [self.card, f"torch {self.torch}", self.precision, *["compiled"] * self.compiled]
        lines = [f"{r.outcome:9} {r.name:16} {r.said}" for r in self.results]
        failed = sum(r.outcome == "failed" for r in self.results)
        end = f"{failed} of {len(lines)} checks failed." if failed else "Training works here."
        return "\n".join([", ".join(how), *lines, end])


def check(
    device: str = "auto",
    *,
    width: int = 96,
    compiled: bool = False,
    say: Callable[[str], object] = lambda text: None,
) -> Report:
    """Check that training works on this device, in a few minutes and without a download.

    Args:
        device: "auto", "cpu", "cuda" or "mps"; "auto" takes a GPU if there is one.
        width: of the networks; the paper's by default.
        compiled: check the compiled network.
        say: is told what is being checked.

    Raises:
        ValueError: no such device, or a width that no network has.
    """
    at = Place(find_device(device), width, compiled)
    how = provenance(at.data, at.device)
    report = Report(how["device"], how["torch"], how["precision"], compiled)
    at.recipe()
    with generators_kept(at.device):
        for name, function in CHECKS.items():
            say(name)
            report.results.append(run(name, function, at))
    return report


def run(name: str, function: Callable[[Place], str], at: Place) -> Result:
    """One check, whatever happens in it; what it says is one line."""
    start = time.perf_counter()
    try:
        outcome, said = "passed", function(at)
    except NotHere as error:
        outcome, said = "not here", str(error)
    except Failed as error:
        outcome, said = "failed", str(error)
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        outcome, said = "failed", f"{type(error).__name__}: {first}"
        if out_of_memory(error):
            said = "there is not enough memory"
    return Result(name, outcome, said, time.perf_counter() - start)
