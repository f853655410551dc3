"""The first code cell of every notebook, in one place.

    python tools/setup_cell.py [book/a.ipynb ...]

writes it into these notebooks, or into all of the book; `tools/execute.py` does so before it runs
one. What the cell fetches is the branch that .github/workflows/pages.yml makes.
"""

import sys
from pathlib import Path
from typing import Any

import nbformat
import repository

ROOT = Path(__file__).parent.parent
TEXT = """\
# Setup. In Colab and Kaggle this fetches the book; torch and numpy stay.
import os
import re
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch reads it
signs = {"google.colab", "KAGGLE_KERNEL_RUN_TYPE"}
if signs & {*sys.modules, *os.environ} and not Path("../wnlib").exists():
    url = "https://github.com/OWNER/REPOSITORY"
    book = Path("book").resolve()
    clone = f"git clone -q --depth 1 --branch colab {url} {book}"
    pip = f"{sys.executable} -m pip install -q --no-color --no-deps"
    install = f"{pip} anywidget psygnal {book}"
    for command in (clone, install)[book.exists() :]:
        status, said = subprocess.getstatusoutput(command)
        if status:
            why = re.search("(?im)^(fatal|error).*", f"{said}\\nerror")[0]
            raise SystemExit(f"The book could not be fetched, {url}: {why}")
    if not (book / "book").exists():
        raise SystemExit(f"Delete the folder {book}, and run this again")
    os.chdir(book / "book")
"""


def text(root: Path = ROOT) -> str:
    """The cell, with the name of the repository that _config.yml has."""
    return TEXT.rstrip("\n").replace("OWNER/REPOSITORY", repository.name(root))


def is_one(cell: Any) -> bool:
    return cell.cell_type == "code" and cell.source.startswith("# Setup")


def stamp(notebook: Any) -> bool:
    """Give the notebook the present text, if it has such a cell; say whether it has."""
    for cell in filter(is_one, notebook.cells):
        cell.source = text()
        return True
    return False


def main(arguments: list[str]) -> int:
    for path in map(Path, arguments) if arguments else sorted(ROOT.glob("book/*.ipynb")):
        before = path.read_text(encoding="utf-8")
        notebook = nbformat.reads(before, as_version=4)
        if not stamp(notebook):
            code = [cell.cell_type for cell in notebook.cells].index("code")
            first = nbformat.v4.new_code_cell(text(), metadata={"tags": ["remove-cell"]})
            notebook.cells.insert(code, first)
        after = nbformat.writes(notebook) + "\n"
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
