"""The first code cell of every notebook, in one place.

    python tools/setup_cell.py

writes it into all notebooks of the book; `tools/execute.py` does so before it runs one. What the
cell fetches is the branch that .github/workflows/pages.yml makes.
"""

from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).parent.parent
# tools/plain.py puts the repository's name in.
TEXT = """\
# Setup. In Colab and Kaggle this fetches the book; torch and numpy stay.
import os
import re
import subprocess
import sys
from pathlib import Path


def fetch(*command, cwd=None):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        said = f"{done.stdout}\\n{done.stderr}\\nerror"
        why = re.search("(?im)^(fatal|error).*", said)[0]
        if kaggle:
            why += " (Kaggle: is Settings → Internet on?)"
        raise SystemExit(f"The book could not be fetched, {url}: {why}")


os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch reads it
url = "https://github.com/OWNER/REPOSITORY"
kaggle = "KAGGLE_KERNEL_RUN_TYPE" in os.environ
hosted = kaggle or "google.colab" in sys.modules
if hosted and not Path("../wnlib").exists():
    book = Path("book").resolve()
    if not book.exists():
        git = ["git", "clone", "-q", "--depth=1", "--branch=colab"]
        fetch(*git, url, book)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-color"]
    extra = ["anywidget", "psygnal", "pooch"]  # without what they need
    fetch(*pip, "--no-deps", *extra, ".", cwd=book)
    if not (book / "book").exists():
        raise SystemExit(f"Delete the folder {book}, and run this again")
    os.chdir(book / "book")"""


def is_one(cell: Any) -> bool:
    return cell.cell_type == "code" and cell.source.startswith("# Setup")


def stamp(notebook: Any) -> None:
    """Give the notebook the present text, if it has such a cell."""
    for cell in filter(is_one, notebook.cells):
        cell.source = TEXT


def main() -> None:
    for path in ROOT.glob("book/*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        stamp(notebook)
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
