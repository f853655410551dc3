"""Fill in the name of the GitHub repository that this book is published from.

    python tools/repository.py OWNER/NAME

_config.yml holds the name; the README and the notebooks repeat it in their links, and in the
address of the published site.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
CONFIG = re.compile(r"^  url: https://github\.com/(\S+)$", re.MULTILINE)
BRANCH = "colab"  # has what Colab and Kaggle open; see .github/workflows/pages.yml


def name(root: Path = ROOT) -> str:
    """OWNER/NAME, as _config.yml has it."""
    found = CONFIG.search((root / "_config.yml").read_text(encoding="utf-8"))
    if not found:
        raise ValueError("_config.yml has no line '  url: https://github.com/OWNER/NAME'")
    return found[1]


def site(name: str) -> str:
    """Where GitHub Pages publishes that repository, with a slash at the end."""
    owner, _, repository = name.partition("/")
    host = f"{owner}.github.io"
    return (
        f"https://{host}/"
        if repository.lower() == host.lower()
        else f"https://{host}/{repository}/"
    )


def rename(new: str, root: Path = ROOT) -> list[Path]:
    """Replace the name that _config.yml has by this one; return the files that changed."""
    if not re.fullmatch(r"[A-Za-z0-9-]+/[A-Za-z0-9._-]+", new):
        raise ValueError(f"{new!r} is not of the form OWNER/NAME")
    old = name(root)
    pattern = re.compile(rf"(?<![\w.-]){re.escape(old)}(?![\w-])")
    changed = []
    for path in (root / "_config.yml", root / "README.md", *sorted(root.glob("book/*.ipynb"))):
        if path.exists():
            before = path.read_text(encoding="utf-8")
            after = pattern.sub(new, before.replace(site(old), site(new)))
            if after != before:
                path.write_text(after, encoding="utf-8")
                changed.append(path)
    return changed


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/repository.py OWNER/NAME")
    try:
        changed = rename(sys.argv[1])
        print(*(path.relative_to(ROOT) for path in changed), sep="\n")
    except ValueError as error:
        sys.exit(str(error))
