"""Fill in the name of the GitHub repository that this book is published from.

    python tools/repository.py OWNER/NAME [BRANCH]

_config.yml holds the name; the README and the notebooks repeat it in their links. BRANCH is the one
whose notebooks the rocket opens in Colab.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
CONFIG = re.compile(r"^  url: https://github\.com/(\S+)$", re.MULTILINE)
BRANCH = re.compile(r"^  branch: (\S+)$", re.MULTILINE)


def rename(name: str, root: Path = ROOT, branch: str | None = None) -> list[Path]:
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
            if branch and path.name == "_config.yml":
                after = BRANCH.sub(f"  branch: {branch}", after)
            if after != before:
                path.write_text(after, encoding="utf-8")
                changed.append(path)
    return changed


if __name__ == "__main__":
    if len(sys.argv) not in {2, 3}:
        sys.exit("usage: python tools/repository.py OWNER/NAME [BRANCH]")
    try:
        changed = rename(sys.argv[1], branch=sys.argv[2] if len(sys.argv) == 3 else None)
        print(*(path.relative_to(ROOT) for path in changed), sep="\n")
    except ValueError as error:
        sys.exit(str(error))
