"""What one takes along of the built book.

    python tools/pack.py

puts two archives into the site: all pages, whose index.html opens by a double click and without a
network, and all notebooks with what they need to run. The same site gives the same bytes.

    python tools/pack.py FOLDER [NOTEBOOKS]

writes the notebooks, or those of another folder, and what they need into a folder; a notebook that
is there already stays. Needs nothing but Python.
"""

import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import repository

ROOT = Path(__file__).parent.parent
SITE = "_build/html"
PUBLISHED = f"{SITE}/_sources/book"  # their links lead to the site
LOCAL = "_build/notebooks"  # their links lead to each other
PAGES, NOTEBOOKS = "weight-normalization", "weight-normalization-notebooks"
FILES = ("pyproject.toml", "LICENSE", "CITATION.cff")
# What only builds the site, and what only running leaves behind.
LEFT_OUT = re.compile(
    r"(^|/)(\.|__pycache__/)|^book/(_|my-runs/|[^/]*\.(ipynb|md)$)"
    r"|^book/(around|figure_script|markup)\.py$"
)
DOWNLOADS = re.compile(rb'<nav class="wn-downloads".*?</nav>', re.DOTALL)
README = """# Notebooks of {book}

In Colab or Kaggle, open one and run it from the top. On your machine:

    pip install . jupyterlab anywidget matplotlib scipy
    jupyter lab book
{changes}"""
CHANGES = """
This branch is made from `main` whenever the site is published; changes belong there.
"""
DAY = (1980, 1, 1, 0, 0, 0)  # the first that an archive can hold


def needed(notebooks: str, root: Path) -> Iterator[tuple[str, bytes]]:
    """The notebooks of this folder and all that they need, by name."""
    found = sorted((root / notebooks).glob("*.ipynb"))
    if not found:
        raise LookupError(f"{root / notebooks} holds no notebooks: run `make site` first")
    files = {f"book/{path.name}": path for path in found} | {name: root / name for name in FILES}
    for path in (path for folder in ("book", "wnlib") for path in (root / folder).rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_file() and not LEFT_OUT.search(name):
            files[name] = path
    yield from ((name, files[name].read_bytes()) for name in sorted(files))
    origin = repository.name(root)
    book = repository.site(origin) if origin else "a book that runs"
    changes = CHANGES if notebooks == PUBLISHED else ""
    yield "README.md", README.format(book=book, changes=changes).encode()


def pages(site: Path) -> Iterator[tuple[str, bytes]]:
    """The site, without what only its builder or a debugger reads, and without the archives."""
    for path in sorted(filter(Path.is_file, site.rglob("*"))):
        name = path.relative_to(site).as_posix()
        if re.search(r"(^|/)\.", name) or path.suffix in {".map", ".zip"}:
            continue
        content = path.read_bytes()
        yield name, DOWNLOADS.sub(b"", content) if path.suffix == ".html" else content


def archive(path: Path, files: Iterator[tuple[str, bytes]]) -> None:
    """Write a zip, whole or not at all, with all in one folder."""
    partial = path.with_name(f".{path.name}")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files:
            entry = zipfile.ZipInfo(f"{path.stem}/{name}", DAY)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            packed.writestr(entry, content)
    partial.replace(path)


def write(folder: Path, notebooks: str = PUBLISHED, root: Path = ROOT) -> None:
    """The notebooks and what they need, into a folder."""
    for name, content in needed(notebooks, root):
        path = folder / name
        if path.suffix == ".ipynb" and path.exists():
            continue  # a reader's work
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def main(folder: str = "", notebooks: str = PUBLISHED) -> None:
    if folder:
        write(Path(folder), notebooks)
        return
    site = ROOT / SITE
    archive(site / f"{PAGES}.zip", pages(site))
    archive(site / f"{NOTEBOOKS}.zip", needed(LOCAL, ROOT))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (LookupError, OSError) as error:
        sys.exit(str(error))
