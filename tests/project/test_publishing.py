"""What happens on publishing: links followed, plain notebooks, archives, and Colab's branch."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import building
import nbformat
import pack
import pytest
import setup_cell
import yaml
from execute import KERNEL, LANGUAGE

ROOT = Path(__file__).parent.parent.parent


class Answers(BaseHTTPRequestHandler):
    """A host whose paths say with which status they answer."""

    def do_HEAD(self) -> None:
        self.send_response(int(self.path[1:4]))
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def host() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_links(tmp_path: Path, host: str) -> None:
    """`make links` on a book of one page, under this book's own settings."""
    book = skeleton(tmp_path)
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/page\n")
    addresses = [f"{host}/{status}" for status in (200, 403, 404)]
    links = [f"[text]({address})" for address in addresses]
    command = ["make", "--no-print-directory", "links", "--assume-old=setup"]
    command.append(f"VENV={Path(sys.executable).parent}")

    def follow() -> subprocess.CompletedProcess[str]:
        (book / "page.md").write_text("\n\n".join(["# A page", *links, "[there](#a-page)"]))
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    done = follow()
    broken, *rest = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert (done.returncode, done.stdout, rest) == (2, "", [])
    assert broken.startswith(f"book/page.md:7: [broken] {host}/404: 404 ")
    assert not (tmp_path / "_build" / "html").exists(), "the published site gets the findings"
    del links[2]
    done = follow()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def git(folder: Path, *arguments: str) -> str:
    quiet = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    command = ["git", *identity, *arguments]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | quiet, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built() -> Path:
    return building.built()


STUB_GH = """#!/bin/sh
[ "$*" = "run download 42 --name github-pages --dir _build" ] || exit 9
mkdir -p _build && cp "$ARTIFACT" _build/artifact.tar
"""


def test_colab_opens_a_branch_that_knows_its_repository(tmp_path: Path, built: Path) -> None:
    """The publishing workflow's own commands, on a copy of this repository with a remote."""
    job = yaml.safe_load((ROOT / ".github/workflows/pages.yml").read_text())["jobs"]["colab"]
    (commands,) = (step["run"] for step in job["steps"] if "run" in step)
    assert job["permissions"] == {"actions": "read", "contents": "write"}
    origin, clone = tmp_path / "origin.git", tmp_path / "clone"
    artifact, programs = tmp_path / "artifact.tar", tmp_path / "programs"
    with tarfile.open(artifact, "w") as packed:
        packed.add(built / "_sources", "_sources")
    programs.mkdir()
    (programs / "gh").write_text(STUB_GH)
    (programs / "gh").chmod(0o755)
    for name in git(ROOT, "ls-files").splitlines():
        if not name.startswith("tests/"):
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    git(tmp_path, "init", "--quiet", "--bare", str(origin))
    git(clone, "init", "--quiet", "--initial-branch", "main")
    git(clone, "add", ".")
    git(clone, "commit", "--quiet", "--message", "The book")
    git(clone, "push", "--quiet", str(origin), "main")
    github = "https://github.com/ada/a.book"
    git(clone, "remote", "add", "origin", github)
    settings = tmp_path / "gitconfig"
    settings.write_text(f'[url "{origin}"]\n  insteadOf = {github}\n')
    main = git(origin, "rev-parse", "main")

    for _ in range(2):  # the second time the branch is there already
        shutil.rmtree(clone / "_build", ignore_errors=True)
        given = {"GITHUB_RUN_ID": "42", "GIT_CONFIG_GLOBAL": str(settings)}
        given |= {"ARTIFACT": str(artifact), "PATH": f"{programs}:{os.environ['PATH']}"}
        subprocess.run(
            ["bash", "-e", "-c", commands],
            cwd=clone,
            env=os.environ | given,
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=60,
        )
    assert git(origin, "rev-parse", "main") == main, "publishing writes to main"
    assert git(origin, "rev-list", "--count", "colab").strip() == "1", "the branch drags its past"
    there = git(origin, "ls-tree", "--name-only", "colab").split()
    assert sorted(there) == [
        "CITATION.cff",
        "LICENSE",
        "README.md",
        "book",
        "pyproject.toml",
        "wnlib",
    ]
    names = git(origin, "ls-tree", "--name-only", "colab", "book/").split()
    notebooks = [name for name in names if name.endswith(".ipynb")]
    assert len(notebooks) == len(list((ROOT / "book").glob("*.ipynb")))
    needed = {f"book/{path.name}" for path in (ROOT / "book").glob("*.json")}
    assert needed | {"book/runs", "book/records", "book/ledger.py"} <= set(names)
    assert "__init__.py" in git(origin, "ls-tree", "--name-only", "colab:book/figures").split()
    for name in notebooks:
        plain = (built / "_sources" / name).read_text(encoding="utf-8")
        assert git(origin, "show", f"colab:{name}") == plain
    assert "https://ada.github.io/a.book/" in git(origin, "show", "colab:README.md")


MYST = r"""# A chapter

% for the builder
<!-- for nobody -->
(here)=
Text, {term}`unit`, {ref}`there`,
{ref}`so <there>`, [a link](other.md),
[](other.md), {doc}`o <other>`.
{cite:t}`salimans2016weight`,
{cite:p}`liao2019weight`.
`{eq}` is a role, and \{so\} is not one.

+++

$$
x = 1
$$ (eq-x)

One line: $$ y = {{2}} $$ and so on, by {eq}`eq-x`.

:::{note}
A formula in a note, and a nested one:

$$
\begin{aligned}
z &= 3
\end{aligned}
$$ (eq-z)

```{tip}
:class: dropdown
It is {eq}`eq-z`.
```
:::

```python
a = {"`{eq}`": 1}
```

Term
: Its meaning,
  on two lines.
"""
PLAIN = r"""# A chapter

*Also a page of [Weight Normalization: a book that runs](SITE/page.html).*

Text, [unit](SITE/other.html#term-unit), [There](SITE/other.html#there),
[so](SITE/other.html#there), [a link](SITE/other.html),
[Other](SITE/other.html), [o](SITE/other.html).
Salimans and Kingma [[2016](SITE/other.html#id2)],
[[Liao and Gong, 2019](SITE/other.html#id3)].
`{eq}` is a role, and \{so\} is not one.


$$
x = 1
\tag{1}
$$

One line: $$ y = {{2}} $$ and so on, by (1).

> **Note**
>
> A formula in a note, and a nested one:
>
> $$ \begin{aligned} z &= 3 \end{aligned} \tag{2} $$
>
> <details><summary>Tip</summary>
>
> It is (2).
>
> </details>

```python
a = {"`{eq}`": 1}
```

- **Term**: Its meaning,
  on two lines."""
OTHER = """# Other

(there)=
## There

```{glossary}
unit
  An output.
```

```{bibliography}
:all:
```
"""


def build(folder: Path, origin: str = "", **pages: str) -> subprocess.CompletedProcess[str]:
    """A book of some pages and OTHER, under this book's own settings."""
    book = skeleton(folder)
    names = "".join(f"  - file: book/{name}\n" for name in ("other", *pages))
    (folder / "_toc.yml").write_text(f"format: jb-book\nroot: book/page\nchapters:\n{names}")
    (book / "other.md").write_text(OTHER)
    new = nbformat.v4
    for name, text in {"page": MYST, **pages}.items():
        set_up = new.new_code_cell(setup_cell.TEXT, metadata={"tags": ["remove-cell"]})
        cells = [new.new_markdown_cell(text), set_up, new.new_code_cell("1")]
        metadata = {"kernelspec": KERNEL, "language_info": LANGUAGE}
        nbformat.write(new.new_notebook(cells=cells, metadata=metadata), book / f"{name}.ipynb")
    git(folder, "init", "--quiet")
    if origin:
        git(folder, "remote", "add", "origin", origin)
    program = Path(sys.executable).parent / "jupyter-book"
    command = [program, "build", ".", "-n", "-W", "--keep-going"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def skeleton(folder: Path) -> Path:
    """The settings and what builds, without pages; the folder `book`."""
    shutil.copytree(ROOT / "tools", folder / "tools")
    shutil.copy(ROOT / "_config.yml", folder)
    only = shutil.ignore_patterns("*.ipynb", "*.md", "runs", "records", "beyond", "__pycache__")
    return shutil.copytree(ROOT / "book", folder / "book", ignore=only)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small book in a clone of a repository on GitHub, built."""
    folder = tmp_path_factory.mktemp("ours")
    done = build(folder, "git@github.com:ada/a.book.git")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def nobody_s(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without an origin, and with a page that has forms without a rule."""
    folder = tmp_path_factory.mktemp("nobody's")
    done = build(folder, wrong="# A chapter\n\n```{epigraph}\nSaid.\n```\n\n{kbd}`x`")
    assert done.returncode != 0
    assert "no plain form of the directive epigraph" in done.stderr
    assert "no plain form of {kbd}`x`" in done.stderr
    return folder


def first_cell(path: Path) -> str:
    said = nbformat.read(path, as_version=4).cells[0].source
    return re.sub(r"#id\d+", "#id", said).replace("> \n", ">\n")


def test_each_form_that_a_chapter_may_use(ours: Path, nobody_s: Path) -> None:
    """Links lead to the site, or where there is none, to the other notebooks."""
    wanted = re.sub(r"#id\d+", "#id", PLAIN)
    published = first_cell(ours / "_build/html/_sources/book/page.ipynb")
    assert published == wanted.replace("SITE", "https://ada.github.io/a.book/book")
    local = re.sub(r"\[((?:[^][]|\[[^]]*\])+)\]\(SITE/[^)]*\)", r"\1", wanted)
    for path in (ours / "_build/notebooks", nobody_s / "_build/html/_sources/book"):
        assert first_cell(path / "page.ipynb") == local


def test_the_set_up_cell_knows_the_repository(ours: Path) -> None:
    plain = nbformat.read(ours / "_build/html/_sources/book/page.ipynb", as_version=4)
    assert 'url = "https://github.com/ada/a.book"' in plain.cells[1].source


def links(page: Path) -> set[str]:
    return set(re.findall(r'href="([^"]*)"', page.read_text(encoding="utf-8")))


def test_a_chapter_opens_elsewhere_and_can_be_edited(ours: Path) -> None:
    github, page = "https://github.com/ada/a.book", "book/page.ipynb"
    assert {
        f"https://colab.research.google.com/github/ada/a.book/blob/colab/{page}",
        f"https://kaggle.com/kernels/welcome?src={github}/blob/colab/{page}",
        f"{github}/edit/main/{page}",
        github,
        *(f"../{name}.zip" for name in (pack.PAGES, pack.NOTEBOOKS)),
    } <= links(ours / "_build/html/book/page.html")
    told = meta((ours / "_build/html/book/page.html").read_text(encoding="utf-8"))
    assert told["og:url"] == "https://ada.github.io/a.book/book/page.html"
    picture = told["og:image"].removeprefix("https://ada.github.io/a.book/")
    assert (ROOT / "book" / picture).exists()


def test_a_clone_of_nobody_s_leads_nowhere(nobody_s: Path, built: Path) -> None:
    """No button to a repository that is not there; downloads are files that the build makes."""
    page = nobody_s / "_build/html/book/page.html"
    assert "github.com" not in "".join(links(page))
    assert f"../{pack.PAGES}.zip" in links(page)
    for page in built.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search("OWNER|REPOSITORY", text), page.name
    assert all((built / f"{name}.zip").exists() for name in (pack.PAGES, pack.NOTEBOOKS))


def test_an_address_that_is_none_gets_the_menu(ours: Path) -> None:
    """From any depth: it is the same page for all of them."""
    page = ours / "_build/html/404.html"
    assert {"/a.book/book/page.html", "/a.book/book/other.html"} <= links(page)
    assert "There is no such page" in page.read_text(encoding="utf-8")


def test_notebooks_to_take_along(built: Path, tmp_path: Path) -> None:
    """All of them, with what they import and read; a reader's own stay when others join them."""
    with zipfile.ZipFile(built / f"{pack.NOTEBOOKS}.zip") as packed:
        packed.extractall(tmp_path)
    book = tmp_path / pack.NOTEBOOKS / "book"
    assert {path.name for path in book.glob("*.ipynb")} == {path.name for path in SOURCES}
    code = "import figures, ledger, wnlib; ledger.tagged_cells(); print(wnlib.__file__)"
    said = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, '..'); {code}"],
        cwd=book,
        capture_output=True,
        text=True,
    )
    assert str(tmp_path) in said.stdout, said.stderr
    mine, other = book / SOURCES[0].name, book / SOURCES[1].name
    mine.write_text("mine")
    other.unlink()
    pack.write(book.parent, pack.LOCAL)
    assert mine.read_text() == "mine"
    assert other.exists()


def test_what_a_reader_runs_is_no_change_of_the_book() -> None:
    made = ("my-book/book/intro.ipynb", "book/my-runs/wn/run.json", "build/lib/wnlib/init.py")
    assert git(ROOT, "check-ignore", *made).split() == list(made)


# Plain notebooks. What is looked for is written here again, not taken from the tool.
SOURCES = sorted((ROOT / "book").glob("*.ipynb"))
RAW = {
    "a role": r"\{[a-z][\w:.-]*\}`",
    "a directive": r"^ *(`{3,}|:{3,}|~{3,}) *\{",
    "a fence of colons": r"^ *:{3,}",
    "a label": r"\$\$ *\([\w:-]+\)|^\([\w:-]+\)=",
    "a comment": r"^%|<!--",
    "a break": r"^\+\+\+",
    "a definition": r"^: ",
    "a footnote": r"\[\^",
    "a substitution": r"\{\{ *[a-z]\w* *\}\}",
}


@pytest.fixture(params=SOURCES, ids=lambda path: path.stem)
def pair(request: pytest.FixtureRequest, built: Path) -> tuple[nbformat.NotebookNode, ...]:
    """A notebook of the book, and the plain one."""
    plain = built.parent / "notebooks" / request.param.name
    return tuple(nbformat.read(path, as_version=4) for path in (request.param, plain))


def test_no_myst_is_left(pair: tuple[nbformat.NotebookNode, ...]) -> None:
    for cell in pair[1].cells:
        if cell.cell_type == "markdown":
            for what, pattern in RAW.items():
                found = re.search(pattern, cell.source, re.MULTILINE)
                assert not found, f"{what}: {found and found[0]!r} in\n{cell.source}"
    assert any(re.search("|".join(RAW.values()), c.source, re.M) for c in pair[0].cells)


def test_links_of_plain_notebooks_resolve(pair: tuple[nbformat.NotebookNode, ...]) -> None:
    """To other notebooks, or out of the book."""
    found = []
    for cell in pair[1].cells:
        if cell.cell_type == "markdown":
            found += re.findall(r"\]\(([^)\s]+)\)", cell.source)
        for output in cell.get("outputs", []):
            html = output.get("data", {}).get("text/html", "")
            found += re.findall(r'<a\b[^>]*href="([^"]*)"', html)
    for address in found:
        file = ROOT / "book" / address.partition("#")[0]
        assert address.startswith("https://") or address == "#" or file in SOURCES, address


def test_plain_notebooks_have_the_same_code(pair: tuple[nbformat.NotebookNode, ...]) -> None:
    """With a form's title before what is folded; outputs stay, but for most solutions."""
    before, after = ([c for c in book.cells if c.cell_type == "code"] for book in pair)
    folded = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
    for old, new in zip(before, after, strict=True):
        tags = set(old.metadata.get("tags", []))
        title, _, code = new.source.partition("\n")
        form = bool(tags & folded) or setup_cell.is_one(old)
        assert (new.metadata.get("cellView") == "form") is form
        assert (code if form else new.source) == old.source
        assert not form or re.fullmatch(r"# @title \S.*", title)
        if "hide-cell" in tags and not any(tag.startswith("claim-") for tag in tags):
            assert new.outputs == []
        else:
            assert [o.output_type for o in new.outputs] == [o.output_type for o in old.outputs]
    nbformat.validate(pair[1])


def test_the_ledger_finds_its_lines_in_plain_notebooks(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "book")
    ledger = importlib.import_module("ledger")
    claims = json.loads((ROOT / "book" / "claims.json").read_text())
    plain = ledger.tagged_cells(built.parent / "notebooks")
    assert ledger.problems(claims, plain) == ledger.problems(claims, ledger.tagged_cells())


def test_numbers_are_those_of_the_page(
    pair: tuple[nbformat.NotebookNode, ...], built: Path, request: pytest.FixtureRequest
) -> None:
    page = built / "book" / f"{request.node.callspec.id}.html"
    shown = re.findall(r'<span class="eqno">\(([\d.]+)\)', page.read_text(encoding="utf-8"))
    text = "\n".join(cell.source for cell in pair[1].cells if cell.cell_type == "markdown")
    assert re.findall(r"\\tag\{([\d.]+)\}", text) == shown


def test_the_last_chapter_asks_for_a_gpu(built: Path) -> None:
    paths = (built / "_sources" / "book").glob("*.ipynb")
    asks = [path.stem for path in paths if "accelerator" in nbformat.read(path, 4).metadata]
    assert asks == [max(path.stem for path in SOURCES if path.stem[0].isdigit())]


def meta(page: str) -> dict[str, str]:
    """What a page tells of itself, by name."""
    found = re.findall(r'<meta[^>]* name="([\w:]+)" content="([^"]*)"', page)
    return {name: unescape(text) for name, text in found}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_preview_says_what_the_page_is_about(path: Path, built: Path) -> None:
    told = meta((built / "book" / f"{path.stem}.html").read_text(encoding="utf-8"))
    first = re.search(r"^# (.+)", nbformat.read(path, as_version=4).cells[0].source, re.M)
    assert first
    assert first[1] in told["og:title"]
    assert 40 < len(told["description"]) <= 210
    assert not re.search(r"[\\$\[\]]|\w\(", told["description"])
    assert told["og:description"] == told["description"]
