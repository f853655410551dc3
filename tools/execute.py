"""Run notebooks again, in place, and store them in one form: same cells and results, same bytes.

    python tools/execute.py [book/a.ipynb ...]

Without arguments: all notebooks of _toc.yml, in its order. A notebook that fails, or that writes
to standard error, keeps its file.
"""

import hashlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import setup_cell
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

ROOT = Path(__file__).parent.parent
TIMEOUT = 300  # seconds a cell may take
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
WIDGET = "application/vnd.jupyter.widget-view+json"
LANGUAGE = {"name": "python", "pygments_lexer": "ipython3"}


class NotebookError(Exception):
    """One line: which notebook, which cell, what went wrong."""


def pages(root: Path = ROOT) -> list[str]:
    """The pages of the book, in reading order, without suffix."""

    def walk(node: Any) -> Iterator[str]:
        if isinstance(node, list):
            for child in node:
                yield from walk(child)
        elif isinstance(node, dict):
            yield from (node[key] for key in ("root", "file") if key in node)
            for key in ("parts", "chapters", "sections"):
                yield from walk(node.get(key, []))

    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    return [page.removesuffix(".ipynb").removesuffix(".md") for page in walk(toc)]


def execute(path: Path, timeout: int = TIMEOUT) -> bool:
    """Run one notebook in its own folder and store it; say whether the file changed."""
    try:
        before = path.read_text(encoding="utf-8")
        notebook = nbformat.reads(before, as_version=4)
    except OSError as error:
        raise NotebookError(f"{path}: {error.strerror}") from None
    except nbformat.reader.NotJSONError:
        raise NotebookError(f"{path}: is not a notebook") from None
    setup_cell.stamp(notebook)
    _run(notebook, path, timeout)
    after = nbformat.writes(normalize(notebook)) + "\n"
    if after == before:
        return False
    partial = path.with_suffix(".partial")
    partial.write_text(after, encoding="utf-8")
    partial.replace(path)
    return True


def _run(notebook: Any, path: Path, timeout: int) -> None:
    silent = logging.Logger("execute")  # what it would log is in the line we raise
    silent.addHandler(logging.NullHandler())
    running = 0

    def begin(cell: Any, cell_index: int) -> None:
        nonlocal running
        running += cell in code

    code = [cell for cell in notebook.cells if _is_code(cell)]
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,  # how printed text is cut is chance
        on_cell_start=begin,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],  # it warns of transport on this machine
        log=silent,
        resources={"metadata": {"path": str(path.parent)}},
    )
    try:
        # A dying kernel may have last words of its own; what a cell writes comes another way.
        client.execute(stderr=subprocess.DEVNULL)
    except CellExecutionError as error:
        why = f"{error.ename}: {_line(error.evalue)}"
    except CellTimeoutError:
        why = f"took longer than {timeout} seconds"
    except DeadKernelError:
        why = "the kernel died; out of memory?"
    else:
        said = [(n, o) for n, cell in enumerate(code, 1) for o in cell.outputs]
        said = [(n, o.text) for n, o in said if o.get("name") == "stderr"]
        if not said:
            return
        running, text = said[0]
        why = f"writes to standard error: {_line(text)}"
    raise NotebookError(f"{path}, code cell {running}: {why}")


def normalize(notebook: Any) -> Any:
    """Drop what differs from run to run, or from tool to tool; return the same notebook."""
    # `accelerator` stays: it is how a notebook asks Colab for a GPU.
    asks = {key: value for key, value in notebook.metadata.items() if key == "accelerator"}
    asks |= {"kernelspec": KERNEL, "language_info": LANGUAGE}
    notebook.metadata = nbformat.from_dict(asks)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    number, ids = 0, set()
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        cell.id = _id(cell, ids)
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


def _id(cell: Any, taken: set[str]) -> str:
    """The cell's own id, or one that follows from its text, if that is free."""
    text = cell.source
    wanted = cell.get("id")
    while not wanted or wanted in taken:
        text = hashlib.sha256(text.encode()).hexdigest()
        wanted = text[:8]
    taken.add(wanted)
    return wanted


def _line(text: Any) -> str:
    return next((line for line in str(text).splitlines() if line.strip()), "")


def main(arguments: list[str]) -> int:
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # a kernel's note on debugging
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as in Makefile
    os.environ.setdefault("WNLIB_QUICK", "1")  # what is stored is what `make test` runs again
    paths = [Path(name) for name in arguments]
    if not paths:
        paths = [p for p in (Path(f"{page}.ipynb") for page in pages()) if (ROOT / p).exists()]
        os.chdir(ROOT)
    status = 0
    for path in paths:
        begin = time.perf_counter()
        try:
            what = "changed" if execute(path) else "as it was"
            print(f"{path}: {what}, {time.perf_counter() - begin:.0f} s", flush=True)
        except NotebookError as error:
            print(error, file=sys.stderr, flush=True)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
