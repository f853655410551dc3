"""Serve the built book to this machine until Ctrl-C; without a terminal, only say where it is.

python tools/serve.py _build/html --port 8000
"""

import argparse
import errno
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")  # a rebuilt page shows at once
        super().end_headers()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", default="8000")
    options = parser.parse_args()

    first = options.folder / "index.html"
    if not sys.stdout.isatty():
        print(first)
        return 0
    if not options.port.isdigit() or not 0 < int(options.port) < 65536:
        return refuse(f"{options.port!r} is no port")
    port = int(options.port)
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), partial(Quiet, directory=options.folder))
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        return refuse(f"port {port} is taken" if taken else f"port {port}: {error.strerror}")
    with server:
        print(f"The book is at http://127.0.0.1:{port}/ until you press Ctrl-C", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


def refuse(why: str) -> int:
    print(f"{why}; try: make book PORT=8001", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
