"""Run notebooks again, in place, and store them in one form: same cells and results, same bytes.

    python tools/execute.py [book/a.ipynb ...]

Without arguments: all notebooks of _toc.yml, in its order. A notebook that fails, or that writes
to standard error, keeps its file.
"""

import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import setup_cell
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat.corpus.words import generate_corpus_id

ROOT = Path(__file__).parent.parent
TIMEOUT = 300  # seconds a cell may take
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
WIDGET = "application/vnd.jupyter.widget-view+json"
LANGUAGE = {"name": "python", "pygments_lexer": "ipython3"}


class NotebookError(Exception):
    """One line: which cell, and what went wrong."""


def pages(root: Path = ROOT) -> list[str]:
    """The pages of the book, in reading order, without suffix."""
    toc = (root / "_toc.yml").read_text(encoding="utf-8")
    return re.findall(r"\b(?:root|file): ([\w/-]+)", toc)


def execute(path: Path) -> bool:
    """Run one notebook in its own folder and store it; say whether the file changed."""
    before = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(before, as_version=4)
    setup_cell.stamp(notebook)
    _run(notebook, path)
    after = nbformat.writes(normalize(notebook)) + "\n"
    path.write_text(after, encoding="utf-8")
    return after != before


def _run(notebook: Any, path: Path) -> None:
    silent = logging.Logger("execute")  # what it would log is in the line we raise
    silent.addHandler(logging.NullHandler())
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,  # how printed text is cut is chance
        extra_arguments=["--IPKernelApp.log_level=ERROR"],  # it warns of transport on this machine
        log=silent,
        resources={"metadata": {"path": str(path.parent)}},
    )
    try:
        # A dying kernel may have last words of its own; what a cell writes comes another way.
        client.execute(stderr=subprocess.DEVNULL)
    except CellExecutionError as error:
        why = f"{error.ename}: {_line(error.evalue)}"
    except (CellTimeoutError, DeadKernelError) as error:
        why = _line(error)
    else:
        why = ""
    if why:
        raise NotebookError(f"code cell {client.code_cells_executed}: {why}")
    for number, cell in enumerate(filter(_is_code, notebook.cells), 1):
        for output in cell.outputs:
            if output.get("name") == "stderr":
                said = f"writes to standard error: {_line(output.text)}"
                raise NotebookError(f"code cell {number}: {said}")


def normalize(notebook: Any) -> Any:
    """Drop what differs from run to run, or from tool to tool; return the same notebook."""
    gpu = {"accelerator": "GPU"} if "accelerator" in notebook.metadata else {}  # asked of Colab
    kept = {"kernelspec": KERNEL, "language_info": LANGUAGE}
    notebook.metadata = nbformat.from_dict(gpu | kept)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    number, ids = 0, set()
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if "id" not in cell or cell.id in ids:
            cell.id = generate_corpus_id()
        ids.add(cell.id)
        if cell.cell_type != "code":
            continue
        number += _is_code(cell)
        cell.execution_count = number if _is_code(cell) else None
        for output in cell.outputs:
            if WIDGET in output.get("data", {}) and "text/html" in output.data:
                del output.data[WIDGET]  # a kernel's: in a stored notebook it leads to nothing
                output.metadata = nbformat.from_dict({})
            if "execution_count" in output:
                output.execution_count = cell.execution_count
    nbformat.validate(notebook)
    return notebook


def _is_code(cell: Any) -> bool:
    """Whether the kernel runs this cell; it passes over empty ones without counting them."""
    return cell.cell_type == "code" and bool(cell.source.strip())


def _line(text: Any) -> str:
    return next((line for line in str(text).splitlines() if line.strip()), "")


def main(arguments: list[str]) -> int:
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # a kernel's note on debugging
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as in Makefile
    os.environ.setdefault("WNLIB_QUICK", "1")  # what is stored is what `make test` runs again
    book = [path for page in pages() if (path := ROOT / f"{page}.ipynb").exists()]
    status = 0
    for path in map(Path, arguments) if arguments else book:
        begin = time.perf_counter()
        try:
            what = "changed" if execute(path) else "as it was"
            print(f"{path}: {what}, {time.perf_counter() - begin:.0f} s", flush=True)
        except (NotebookError, OSError, ValueError) as error:  # no file, or no notebook
            print(f"{path}: {_line(error)}", file=sys.stderr, flush=True)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
