"""What happens on publishing: links followed, plain notebooks, and a branch that Colab opens."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import nbformat
import pytest
import repository
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
    book = tmp_path / "book"
    (book / "_static").mkdir(parents=True)
    (tmp_path / "tools").mkdir()
    for name in ("around.py", "markup.py", "figure_script.py", "references.bib"):
        shutil.copy(ROOT / "book" / name, book / name)
    shutil.copy(ROOT / "book" / "_static" / "favicon.svg", book / "_static")
    for name in ("plain.py", "repository.py", "setup_cell.py"):
        shutil.copy(ROOT / "tools" / name, tmp_path / "tools")
    for name in ("_config.yml", "Makefile"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/page\n")
    addresses = [f"{host}/{status}" for status in (200, 403, 404)]
    addresses.append("https://github.com/OWNER/REPOSITORY/issues")
    links = [f"[text]({address})" for address in addresses]
    command = ["make", "--no-print-directory", "links", "--assume-old=setup"]
    command.append(f"VENV={Path(sys.executable).parent}")

    def follow() -> subprocess.CompletedProcess[str]:
        (book / "page.md").write_text("\n\n".join(["# A page", *links, "[there](#a-page)"]))
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)

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
    """The built book; `make site` does nothing where it is newer than its sources."""
    command = ["make", "--no-print-directory", "site", f"VENV={Path(sys.executable).parent}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"`make site` fails:\n{done.stderr}"
    return ROOT / "_build" / "html"


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
    git(clone, "remote", "add", "origin", str(origin))
    git(clone, "push", "--quiet", "origin", "main")
    main = git(origin, "rev-parse", "main")

    for _ in range(2):  # the second time the name is there already, and the branch, too
        shutil.rmtree(clone / "_build", ignore_errors=True)
        given = {"GITHUB_REPOSITORY": "ada/a.book", "GITHUB_RUN_ID": "42"}
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
    for name in notebooks:
        plain = (built / "_sources" / name).read_text(encoding="utf-8")
        assert git(origin, "show", f"colab:{name}") == plain
    assert "https://ada.github.io/a.book/" in git(origin, "show", "colab:README.md")


def test_the_site_is_built_with_the_repository_s_name() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/pages.yml").read_text())["jobs"]
    runs = [step.get("run", "") for step in workflow["build"]["steps"]]
    named = next(n for n, run in enumerate(runs) if "repository.py" in run)
    assert named < next(n for n, run in enumerate(runs) if "make site offline" in run)
    assert "colab" in workflow["publish"]["needs"], (
        "the rocket would lead to a branch not there yet"
    )


def test_the_name_gives_the_site_s_address() -> None:
    assert repository.site("Ada/a.book") == "https://Ada.github.io/a.book/"
    assert repository.site("ada/Ada.github.io") == "https://ada.github.io/"


def test_a_new_name_gives_the_links_to_the_site_a_new_address(tmp_path: Path) -> None:
    (tmp_path / "book").mkdir()
    shutil.copy(ROOT / "_config.yml", tmp_path)
    before = repository.site(repository.name())
    (tmp_path / "README.md").write_text(f"[there]({before}book/intro.html)")
    for name in ("ada/a.book", "eve/eve.github.io", "ada/b"):
        repository.rename(name, tmp_path)
        text = (tmp_path / "README.md").read_text()
        assert text == f"[there]({repository.site(name)}book/intro.html)"


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


def build(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    """A book of two pages, under this book's own settings."""
    book = folder / "book"
    (book / "_static").mkdir(parents=True)
    for name in ("around.py", "markup.py", "figure_script.py", "references.bib", "_templates"):
        (shutil.copytree if name == "_templates" else shutil.copy)(
            ROOT / "book" / name, book / name
        )
    for name in ("favicon.svg", "book.css", "print.js"):
        shutil.copy(ROOT / "book" / "_static" / name, book / "_static")
    shutil.copytree(ROOT / "book" / "_root", book / "_root")
    shutil.copytree(ROOT / "tools", folder / "tools")
    shutil.copy(ROOT / "_config.yml", folder)
    (folder / "_toc.yml").write_text(
        "format: jb-book\nroot: book/page\nchapters:\n  - file: book/other\n"
    )
    (book / "other.md").write_text(OTHER)
    cells = [nbformat.v4.new_markdown_cell(text), nbformat.v4.new_code_cell("1")]
    metadata = {"kernelspec": KERNEL, "language_info": LANGUAGE}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), book / "page.ipynb")
    command = [
        Path(sys.executable).parent / "jupyter-book",
        "build",
        ".",
        "-n",
        "-W",
        "--keep-going",
    ]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100)


def test_each_form_that_a_chapter_may_use(tmp_path: Path) -> None:
    done = build(tmp_path, MYST)
    assert done.returncode == 0, done.stderr
    plain = nbformat.read(tmp_path / "_build/html/_sources/book/page.ipynb", as_version=4)
    site = f"{repository.site(repository.name())}book"
    said = re.sub(r"#id\d+", "#id", plain.cells[0].source).replace("> \n", ">\n")
    assert said == re.sub(r"#id\d+", "#id", PLAIN).replace("SITE", site)


def test_a_form_without_a_rule_fails_the_build(tmp_path: Path) -> None:
    done = build(tmp_path, "# A chapter\n\n```{epigraph}\nSaid.\n```\n\n{kbd}`x`")
    assert done.returncode != 0
    assert "no plain form of the directive epigraph" in done.stderr
    assert "no plain form of {kbd}`x`" in done.stderr


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
    plain = built / "_sources" / "book" / request.param.name
    return tuple(nbformat.read(path, as_version=4) for path in (request.param, plain))


def test_no_myst_is_left(pair: tuple[nbformat.NotebookNode, ...]) -> None:
    for cell in pair[1].cells:
        if cell.cell_type == "markdown":
            for what, pattern in RAW.items():
                found = re.search(pattern, cell.source, re.MULTILINE)
                assert not found, f"{what}: {found and found[0]!r} in\n{cell.source}"
    assert any(re.search("|".join(RAW.values()), c.source, re.M) for c in pair[0].cells)


def test_links_of_plain_notebooks_resolve(
    pair: tuple[nbformat.NotebookNode, ...], built: Path
) -> None:
    """Those to the site lead to a file and a place in it; there are no relative ones."""
    site = repository.site(repository.name())
    found = []
    for cell in pair[1].cells:
        if cell.cell_type == "markdown":
            found += re.findall(r"\]\(([^)\s]+)\)", cell.source)
        for output in cell.get("outputs", []):
            found += re.findall(
                r'<a\b[^>]*href="([^"]*)"', output.get("data", {}).get("text/html", "")
            )
    assert any(address.startswith(site) for address in found)
    for address in found:
        assert address.startswith("https://"), address
        if address.startswith(site) and not address.endswith(".zip"):  # `make offline` makes that
            page, _, place = address.removeprefix(site).partition("#")
            text = (built / page).read_text(encoding="utf-8")
            assert not place or f'id="{place}"' in text, address


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
    plain = ledger.tagged_cells(built / "_sources" / "book")
    assert ledger.problems(claims, plain) == ledger.problems(claims, ledger.tagged_cells())


def test_numbers_are_those_of_the_page(
    pair: tuple[nbformat.NotebookNode, ...], built: Path, request: pytest.FixtureRequest
) -> None:
    page = built / "book" / f"{request.node.callspec.id}.html"
    shown = re.findall(r'<span class="eqno">\(([\d.]+)\)', page.read_text(encoding="utf-8"))
    text = "\n".join(cell.source for cell in pair[1].cells if cell.cell_type == "markdown")
    assert re.findall(r"\\tag\{([\d.]+)\}", text) == shown


def test_the_last_chapter_asks_for_a_gpu(built: Path) -> None:
    asks = [
        path.stem
        for path in sorted((built / "_sources" / "book").glob("*.ipynb"))
        if nbformat.read(path, as_version=4).metadata.get("accelerator") == "GPU"
    ]
    assert asks == [max(path.stem for path in SOURCES if path.stem[0].isdigit())]


def meta(page: str) -> dict[str, str]:
    """What a page tells of itself, by name."""
    found = re.findall(r'<meta (?:name|property)="([\w:]+)" content="([^"]*)"', page)
    return {name: unescape(text) for name, text in found}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_preview_says_what_the_page_is_about(path: Path, built: Path) -> None:
    site = repository.site(repository.name())
    told = meta((built / "book" / f"{path.stem}.html").read_text(encoding="utf-8"))
    assert told["og:url"] == f"{site}book/{path.stem}.html"
    assert (built / told["og:image"].removeprefix(site)).exists()
    first = re.search(r"^# (.+)", nbformat.read(path, as_version=4).cells[0].source, re.M)
    assert first
    assert first[1] in told["og:title"]
    assert 40 < len(told["description"]) <= 210
    assert not re.search(r"[\\$\[\]]|\w\(", told["description"])
    assert told["og:description"] == told["description"]


def test_a_chapter_opens_elsewhere_and_can_be_edited(built: Path) -> None:
    page = (built / "book" / "01-why-reparameterize.html").read_text(encoding="utf-8")
    links = set(re.findall(r'href="(https:[^"]*)"', page))
    source = f"https://github.com/{repository.name()}"
    chapter = "book/01-why-reparameterize.ipynb"
    plain = f"{repository.name()}/blob/colab/{chapter}"
    assert {
        f"https://colab.research.google.com/github/{plain}",
        f"https://kaggle.com/kernels/welcome?src=https://github.com/{plain}",
        f"{source}/edit/main/{chapter}",
        f"{source}/archive/refs/heads/colab.zip",
        f"{repository.site(repository.name())}weight-normalization.zip",
    } <= links
    workflow = (ROOT / ".github/workflows/pages.yml").read_text()
    assert "mv _build/weight-normalization.zip _build/html\n" in workflow


def test_an_address_that_is_none_gets_the_list_of_pages(built: Path) -> None:
    """From any depth: it is the same page for all of them."""
    page = (built / "404.html").read_text(encoding="utf-8")
    assert f'<base href="{repository.site(repository.name())}">' in page
    links = re.findall(r'<a href="([^"]*)"', page)
    assert len(links) == len(set(links))
    assert {f"book/{path.stem}.html" for path in SOURCES} < set(links)
    assert all((built / link).exists() for link in links)
    assert not re.search(r'(src|href)="(?!book/|https:)', page), "it needs a file beside it"
