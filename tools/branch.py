"""What Colab and Kaggle open and fetch: the plain notebooks, and what they need to run.

    python tools/branch.py FOLDER

writes it into a folder that is not there yet, from this checkout and the site that was built in it.
The workflow that publishes the site makes a branch of it. Needs nothing but Python.
"""

import shutil
import sys
from pathlib import Path

import repository

ROOT = Path(__file__).parent.parent
BUILT = "_build/html/_sources/book"
FILES = ("pyproject.toml", "LICENSE", "CITATION.cff")
# What only builds the site, and what only running leaves behind.
LEFT_OUT = ("_*", ".*", "*.ipynb", "*.md", "around.py", "figure_script.py", "markup.py")
README = """# Notebooks of {site}

In Colab or Kaggle, open one and run it from the top. On your machine:

    pip install . jupyterlab
    jupyter lab book

This branch is made from `main` whenever the site is published; changes belong there.
"""


def write(folder: Path, root: Path = ROOT) -> None:
    """Raise LookupError where no site is built, FileExistsError where the folder is there."""
    notebooks = sorted((root / BUILT).glob("*.ipynb"))
    if not notebooks:
        raise LookupError(f"{root / BUILT} holds no notebooks: run `make site` first")
    folder.mkdir(parents=True)
    shutil.copytree(root / "book", folder / "book", ignore=shutil.ignore_patterns(*LEFT_OUT))
    shutil.copytree(
        root / "wnlib", folder / "wnlib", ignore=shutil.ignore_patterns("__pycache__", ".*")
    )
    for path in notebooks:
        shutil.copy(path, folder / "book")
    for name in FILES:
        shutil.copy(root / name, folder)
    site = repository.site(repository.name(root))
    (folder / "README.md").write_text(README.format(site=site), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/branch.py FOLDER")
    try:
        write(Path(sys.argv[1]))
    except (LookupError, OSError) as error:
        sys.exit(str(error))
