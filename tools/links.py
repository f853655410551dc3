"""Follow every link that leads out of the book and tell which ones lead nowhere.

    python tools/links.py [FOLDER]

FOLDER holds the book's _config.yml. Status 1 says that a link is broken.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Publishers turn programs away with these, whether the page is there or not.
REFUSALS = ("401 ", "403 ", "406 ", "418 ", "429 ", "503 ")


def follow(root: Path) -> list[dict]:
    """What Sphinx found: filename, lineno, status, uri and info of each link."""
    build = [Path(sys.executable).with_name("jupyter-book"), "build", ".", "--all"]
    # A folder of its own: what this builder writes has no place among the pages.
    build += ["--builder", "linkcheck", "--path-output", "_build/links"]
    found = root / "_build" / "links" / "_build" / "html" / "output.json"
    found.unlink(missing_ok=True)
    done = subprocess.run(build, cwd=root, capture_output=True, text=True)
    if not found.exists():
        raise LookupError(f"the links were not followed:\n{done.stdout}{done.stderr}")
    return [json.loads(line) for line in found.read_text(encoding="utf-8").splitlines()]


def verdict(link: dict) -> str:
    """works, broken, unanswered, refused or ignored."""
    if link["status"] == "timeout":
        return "unanswered"
    if link["status"] != "broken":
        return "ignored" if link["status"] == "ignored" else "works"
    return "refused" if link["info"].startswith(REFUSALS) else "broken"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT)
    options = parser.parse_args()
    try:
        links = follow(options.folder)
    except (LookupError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    # The others lead to a place on their own page, or are addresses of mail.
    links = [link for link in links if link["status"] not in {"unchecked", "local"}]
    if links and all("NameResolutionError" in link["info"] for link in links):
        print(f"None of {len(links)} links has an address: check the network", file=sys.stderr)
        return 1
    for link in links:
        if (said := verdict(link)) not in {"works", "ignored"}:
            print(f"{said}: {link['filename']}:{link['lineno']}: {link['uri']}: {link['info']}")
    count = Counter({link["uri"]: verdict(link) for link in links}.values())
    print(f"{count.total()} links: " + ", ".join(f"{n} {said}" for said, n in count.items()))
    return int(count["broken"] > 0)


if __name__ == "__main__":
    sys.exit(main())
