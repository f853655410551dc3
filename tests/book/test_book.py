"""The book as stored: listed, executed, compared, and free of one machine's traces."""

import json
import os
import re
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import nbformat
import pytest
from building import built
from execute import normalize, pages

ROOT = Path(__file__).parent.parent.parent
BOOK = ROOT / "book"
BESIDE = os.environ | {"PYTHONPATH": str(BOOK)}  # what a notebook in that folder can import
NOTEBOOKS = sorted(p for p in BOOK.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
LOOSE = {"nbval-ignore-output", "nbval-skip", "nbval-raises-exception", "raises-exception"}
TRACES = {
    "an absolute path": re.compile(
        r"(?<![\w.:/-])/(home|root|Users|tmp|usr|opt|var|mnt|work|content|private)/|\b[A-Z]:\\"
    ),
    "an object's address": re.compile(r"\bat 0x[0-9a-f]+|\b0x[0-9a-f]{8,}"),
}


def problems(notebook: dict) -> list[str]:
    """What keeps this notebook from being a page that is checked."""
    found = []
    code = [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]
    if [c.execution_count for c in code] != list(range(1, len(code) + 1)):
        found.append("not executed from top to bottom: run `make execute`")
    if not any(c.outputs for c in code):
        found.append("no outputs are stored, so none are compared: run `make execute`")
    for n, cell in enumerate(code, 1):
        where = f"code cell {n}"
        if "NBVAL_" in cell.source or "PYTEST_VALIDATE_" in cell.source:
            found.append(f"{where} is marked by a comment: use a tag, which the guard counts")
        if LOOSE & set(cell.metadata.get("tags", [])) and not cell.source.startswith("# "):
            found.append(f"{where} is not compared, and its first line is no comment that says why")
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"{where} stores an error")
            text = re.sub(r"base64,[A-Za-z0-9+/=\s]*", "", _text(output))
            found += [f"{where} shows {what}" for what, rx in TRACES.items() if rx.search(text)]
    loose = sum(bool(LOOSE & set(c.metadata.get("tags", []))) for c in code)
    if loose * 10 > len(code):
        found.append(f"{loose} of {len(code)} code cells are not compared: more than a tenth")
    if normalize(deepcopy(notebook)) != notebook:
        found.append("timestamps, widget state or other metadata: run `make execute`")
    return found


def _text(output: dict) -> str:
    data = {k: v for k, v in output.get("data", {}).items() if not k.startswith("image/")}
    return str(output.get("text", "")) + "".join(
        value if isinstance(value, str) else json.dumps(value) for value in data.values()
    )


def test_table_of_contents() -> None:
    listed = pages()
    there = {p.relative_to(ROOT).with_suffix("").as_posix() for p in NOTEBOOKS}
    written = {p.relative_to(ROOT).with_suffix("").as_posix() for p in BOOK.glob("*.md")}
    assert len(listed) == len(set(listed)), "a page is listed twice in _toc.yml"
    assert there <= set(listed), (
        "a notebook in book/ is missing from _toc.yml: nobody would read it"
    )
    assert set(listed) <= there | written, "_toc.yml lists a page that is not in book/"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook(path: Path) -> None:
    found = problems(nbformat.read(path, as_version=4))
    assert not found, f"{path.name}: " + "; ".join(found)


def test_the_noise_study_quotes_its_code() -> None:
    page = nbformat.read(BOOK / "gradient-noise.ipynb", as_version=4)
    told = "\n".join(c.source for c in page.cells if c.cell_type == "markdown")
    quoted = re.findall(r"```python\n(.*?)```", told, re.S)
    assert quoted
    code = (BOOK / "gradient_noise.py").read_text()
    assert all(part in code for part in quoted)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small notebook as a browser would save it, put in form by tools/execute.py."""
    path = tmp_path_factory.mktemp("book") / "small.ipynb"
    sources = [
        "import sys\nfor word in ('one', 'two'):\n    print(word)\n    sys.stdout.flush()",
        "from IPython.display import HTML\n"
        "HTML('<p>rows: 3</p><img src=\"data:image/png;base64,QUJD\">')",
        "{'a': 1}",
        "from figures import Activations\nActivations()",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in sources])
    book.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    book.metadata["language_info"] = {"name": "python", "version": "3.1.4"}
    book.cells[0].metadata["execution"] = {"iopub.execute_input": "2020-01-01T00:00:00Z"}
    book.cells[0].metadata["scrolled"] = True
    book.cells[2].metadata["tags"] = ["hide-input"]
    text = json.loads(nbformat.writes(book))
    text["nbformat_minor"] = 4
    for cell in text["cells"][1:]:
        del cell["id"]
    text["cells"][0].pop("id")
    path.write_text(json.dumps(text))
    done = run_execute(path)
    assert done.returncode == 0, done.stderr
    return path


def run_execute(*paths: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "tools" / "execute.py", *paths]
    return subprocess.run(command, env=BESIDE, capture_output=True, text=True, timeout=200)


def run_nbval(*arguments: Path | str) -> str:
    """What pytest says of notebooks, under this project's own settings."""
    command = [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "--nbval"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        env=BESIDE,
        capture_output=True,
        text=True,
        timeout=200,
    )
    return done.stdout


def test_execute_stores_one_form(small: Path) -> None:
    first = small.read_bytes()
    again = run_execute(small)
    assert (again.returncode, again.stderr) == (0, "")
    assert small.read_bytes() == first, "the same notebook gives other bytes on a second run"
    book = nbformat.read(small, as_version=4)
    assert problems(book) == []
    assert set(book.metadata) == {"kernelspec", "language_info"}
    assert [dict(c.metadata) for c in book.cells] == [{}, {}, {"tags": ["hide-input"]}, {}]
    # A figure is stored as the page shows it, not as a view of a kernel that is gone.
    assert set(book.cells[3].outputs[0].data) == {"text/html", "text/plain"}
    assert book.cells[0].outputs[0].text == "one\ntwo\n", "printed text is stored in pieces"
    assert first.endswith(b"}\n")
    assert b"2020" not in first


def test_execute_keeps_ids(small: Path, tmp_path: Path) -> None:
    book = nbformat.read(small, as_version=4)
    book.cells[1].id = "a-name-of-its-own"
    book.cells[2].id = book.cells[0].id
    kept = normalize(deepcopy(book))
    assert [c.id for c in kept.cells[:2]] == [c.id for c in book.cells[:2]]
    assert len({c.id for c in kept.cells}) == 4, "two cells with one id are no valid notebook"


def test_execute_refuses(tmp_path: Path) -> None:
    bodies = {
        "fails": "1 / 0",
        "complains": "import sys\nprint('a bar', file=sys.stderr)",
        "dies": "import os\nos._exit(1)",
    }
    paths = []
    for name, body in bodies.items():
        paths.append(tmp_path / f"{name}.ipynb")
        cells = [nbformat.v4.new_code_cell(s) for s in ("x = 1", "", body)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), paths[-1])
    (tmp_path / "text.ipynb").write_text("not a notebook")
    before = [path.read_bytes() for path in paths]
    done = run_execute(*paths, tmp_path / "text.ipynb")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"{paths[0]}: code cell 2: ZeroDivisionError: division by zero",
        f"{paths[1]}: code cell 2: writes to standard error: a bar",
        f"{paths[2]}: code cell 2: Kernel died",
        f"{tmp_path / 'text.ipynb'}: Notebook does not appear to be JSON: 'not a notebook'",
    ]
    assert [path.read_bytes() for path in paths] == before, "a failed notebook was overwritten"


def test_nbval_bites_and_passes_over_pixels(small: Path, tmp_path: Path) -> None:
    book = nbformat.read(small, as_version=4)
    printed, shown, result, figure = (cell.outputs[0] for cell in book.cells)
    printed.text = printed.text.replace("two", "too")
    shown.data["text/html"] = shown.data["text/html"].replace("rows: 3", "rows: 4")
    result.data["text/plain"] = "{'a': 2}"
    data = figure.data["text/html"]
    assert '"slope":0.1' in data
    figure.data["text/html"] = data.replace('"slope":0.1', '"slope":0.2')
    corrupted = tmp_path / "corrupted.ipynb"
    nbformat.write(book, corrupted)
    # Beside it the notebook as it was stored, and one with other pixels in the same figure.
    other = tmp_path / "other.ipynb"
    book = nbformat.read(small, as_version=4)
    html = book.cells[1].outputs[0].data["text/html"]
    book.cells[1].outputs[0].data["text/html"] = html.replace("QUJD", "WFla\n")
    nbformat.write(book, other)
    said = run_nbval(corrupted, other, small, "-v")
    results = re.findall(r"::Cell \d (PASSED|FAILED)", said)  # in this order
    assert results[:4] == ["FAILED"] * 4, "a corrupted output passes as the right one"
    assert results[4:8] == ["PASSED"] * 4, "other pixels of the same figure fail"
    assert results[8:] == ["PASSED"] * 4, "the notebook does not pass as stored"


def test_a_corrupted_record_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One digit of one epoch of a recorded run, and the chapter that shows it no longer passes."""
    chapter = nbformat.read(BOOK / "08-reading-the-report.ipynb", as_version=4)
    cells = [c for c in chapter.cells if c.cell_type == "code"]
    last = next(
        i for i, c in enumerate(cells) if "claim-report-selection" in c.metadata.get("tags", [])
    )
    chapter.cells = cells[: last + 1]
    for cell in chapter.cells[:-1]:
        cell.metadata["tags"] = ["nbval-ignore-output"]
    nbformat.write(chapter, tmp_path / "part.ipynb")
    shutil.copytree(BOOK / "runs", tmp_path / "runs")
    shutil.copy(BOOK / "report_as_coded.py", tmp_path)
    path = tmp_path / "runs" / "report-2019" / "wn" / "history.csv"
    lines = path.read_text().splitlines()
    *before, test_error, seconds = lines[-1].split(",")
    lines[-1] = ",".join([*before, str(round(float(test_error) + 0.001, 4)), seconds])
    path.write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("PYTHONPATH", str(BOOK))  # the figures
    said = run_nbval(tmp_path / "part.ipynb")
    assert f"1 failed, {last} passed" in said, "an altered record goes unnoticed"


def test_the_guard_bites(small: Path) -> None:
    """Each problem, put into a good notebook, is found: else a page could have it unseen."""

    def said(change: str) -> str:
        book = nbformat.read(small, as_version=4)
        cell, tags = book.cells[0], {"tags": ["nbval-ignore-output"]}
        output = cell.outputs[0]
        exec(change, {"book": book, "cell": cell, "output": output, "tags": tags})
        return "; ".join(problems(book))

    assert "from top to bottom" in said("cell.execution_count = 7")
    assert "from top to bottom" in said("cell.execution_count = None")
    assert "no outputs" in said("for c in book.cells: c.outputs = []")
    assert "by a comment" in said("cell.source = '# NBVAL_SKIP'")
    assert "says why" in said("cell.metadata.update(tags)")
    assert "more than a tenth" in said("cell.metadata.update(tags)")
    assert "absolute path" in said("output.text = 'in /home/me/book'")
    assert "address" in said("output.text = '<object at 0x7f2b10c0>'")
    assert "metadata" in said("cell.metadata['execution'] = {}")
    assert "metadata" in said("book.metadata['widgets'] = {}")
    error = "dict(output_type='error', ename='E', evalue='', traceback=[])"
    assert "an error" in said(f"output.clear(); output.update({error})")


@pytest.fixture(scope="module")
def site() -> Path:
    """The book, built strictly."""
    return built()


def test_pages_ask_no_other_host(site: Path) -> None:
    loads = re.compile(
        r"<(?:script|link(?! rel=\"canonical\")|img|iframe|source|video)\b"
        r"[^>]*\b(?:src|href)=[\"'](?:https?:)?//[^>]*>"
        r"|\bimport\s*\(?\s*[\"']https?://[^\"']*|url\([\"']?https?://[^)]*"
    )
    for page in site.rglob("*.html"):
        found = loads.findall(page.read_text(encoding="utf-8"))
        assert not found, f"{page.name} loads from another host: {found}"


def test_pages_bring_mathjax(site: Path) -> None:
    page = (site / "book" / "intro.html").read_text(encoding="utf-8")
    source = re.search(r'<script[^>]*src="\.\./(_static/[^"?]*tex-svg[^"?]*)', page)
    assert source, "the first page does not load the vendored MathJax"
    assert (site / source[1]).exists()
