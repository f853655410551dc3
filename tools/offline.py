"""Pack the built book into one archive that is read without a server and without a network.

    python tools/offline.py _build/html _build/weight-normalization.zip

Unpacked, its index.html opens by a double click. The same site gives the same bytes.
"""

import argparse
import sys
import zipfile
from pathlib import Path

# A page from a file may not read other files, which is how the search shows excerpts.
SEARCH = "_static/documentation_options.js"
EXCERPTS = b"SHOW_SEARCH_SUMMARY: true"
DAY = (1980, 1, 1, 0, 0, 0)  # the first that an archive can hold


def pack(site: Path, archive: Path) -> None:
    """Write the archive, whole or not at all; raise LookupError where no site is built."""
    if not (site / "index.html").exists():
        raise LookupError(f"{site} holds no built book: run `make site` first")
    archive.parent.mkdir(parents=True, exist_ok=True)
    partial = archive.with_suffix(".partial")  # no half of an archive is ever left
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        for path in sorted(filter(Path.is_file, site.rglob("*"))):
            name = path.relative_to(site)
            hidden = any(part.startswith(".") for part in name.parts)
            if hidden or path.suffix == ".map":  # what only the builder, or a debugger, reads
                continue
            content = path.read_bytes()
            if name.as_posix() == SEARCH:
                if EXCERPTS not in content:
                    raise LookupError(f"{path} does not say {EXCERPTS.decode()}")
                content = content.replace(EXCERPTS, EXCERPTS.replace(b"true", b"false"))
            entry = zipfile.ZipInfo(f"{archive.stem}/{name.as_posix()}", DAY)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            packed.writestr(entry, content)
    partial.replace(archive)


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("site", type=Path)
    parser.add_argument("archive", type=Path)
    options = parser.parse_args()
    try:
        pack(options.site, options.archive)
    except (LookupError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    size = options.archive.stat().st_size / 1e6
    print(f"{options.archive}, {size:.1f} MB: unpack it and open its index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
