"""Fill in the name of the GitHub repository that this book is published from.

    python tools/repository.py OWNER/NAME

_config.yml holds the name; the README and the notebooks repeat it in their links.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
CONFIG = re.compile(r"^  url: https://github\.com/(\S+)$", re.MULTILINE)


def rename(name: str, root: Path = ROOT) -> list[Path]:
    """Replace the name that _config.yml has by this one; return the files that changed."""
    if not re.fullmatch(r"[A-Za-z0-9-]+/[A-Za-z0-9._-]+", name):
        raise ValueError(f"{name!r} is not of the form OWNER/NAME")
    found = CONFIG.search((root / "_config.yml").read_text(encoding="utf-8"))
    if not found:
        raise ValueError("_config.yml has no line '  url: https://github.com/OWNER/NAME'")
    old = re.compile(rf"(?<![\w.-]){re.escape(found[1])}(?![\w-])")
    changed = []
    for path in (root / "_config.yml", root / "README.md", *sorted(root.glob("book/*.ipynb"))):
        if path.exists():
            before = path.read_text(encoding="utf-8")
            after = old.sub(name, before)
            if after != before:
                path.write_text(after, encoding="utf-8")
                changed.append(path)
    return changed


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/repository.py OWNER/NAME")
    try:
        print(*(path.relative_to(ROOT) for path in rename(sys.argv[1])), sep="\n")
    except ValueError as error:
        sys.exit(str(error))
