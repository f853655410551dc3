"""The built book, for whichever test wants it first."""

import subprocess
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).parent.parent


def built() -> Path:
    """Where it lies; `make site` does nothing where it is newer than its sources."""
    (ROOT / "_build").mkdir(exist_ok=True)
    with FileLock(ROOT / "_build" / "lock"):  # tests in parallel want it at the same time
        done = subprocess.run(
            ["make", "--no-print-directory", "site"], cwd=ROOT, capture_output=True, text=True
        )
    assert done.returncode == 0, f"`make site` fails:\n{done.stderr}"
    return ROOT / "_build" / "html"
