"""What happens on publishing: links followed, and a branch whose notebooks open in Colab."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

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
    for name in ("markup.py", "figure_script.py", "references.bib", "_static/favicon.svg"):
        shutil.copy(ROOT / "book" / name, book / name)
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


def test_colab_opens_notebooks_that_know_their_repository(tmp_path: Path) -> None:
    """The publishing workflow's own commands, on a copy of this repository with a remote."""
    job = yaml.safe_load((ROOT / ".github/workflows/pages.yml").read_text())["jobs"]["colab"]
    (commands,) = (step["run"] for step in job["steps"] if "run" in step)
    assert job["permissions"] == {"contents": "write"}
    origin, clone = tmp_path / "origin.git", tmp_path / "clone"
    for name in ("_config.yml", "README.md", "tools/repository.py"):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    shutil.copytree(ROOT / "book", clone / "book", ignore=shutil.ignore_patterns("runs", "_*"))
    git(tmp_path, "init", "--quiet", "--bare", str(origin))
    git(clone, "init", "--quiet", "--initial-branch", "main")
    git(clone, "add", ".")
    git(clone, "commit", "--quiet", "--message", "The book")
    git(clone, "remote", "add", "origin", str(origin))
    git(clone, "push", "--quiet", "origin", "main")
    main = git(origin, "rev-parse", "main")

    for _ in range(2):  # the second time the name is there already, and the branch, too
        subprocess.run(
            ["bash", "-e", "-c", commands],
            cwd=clone,
            env=os.environ | {"GITHUB_REPOSITORY": "ada/a.book"},
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=60,
        )
    assert git(origin, "rev-parse", "main") == main, "publishing writes to main"
    names = git(origin, "ls-tree", "--name-only", "colab", "book/").split()
    notebooks = [name for name in names if name.endswith(".ipynb")]
    assert len(notebooks) == len(list((ROOT / "book").glob("*.ipynb")))
    for name in notebooks:
        text = git(origin, "show", f"colab:{name}")
        assert "OWNER/REPOSITORY" not in text, f"{name} would fetch the book from nowhere"
        if "google.colab" in text:
            assert "https://github.com/ada/a.book" in text
    assert "  branch: colab\n" in git(origin, "show", "colab:_config.yml")


def test_the_site_opens_that_branch() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/pages.yml").read_text())["jobs"]
    runs = [step.get("run", "") for step in workflow["build"]["steps"]]
    named = next(n for n, run in enumerate(runs) if "repository.py" in run)
    assert runs[named].endswith(" colab")
    assert named < runs.index("make site")
    assert "colab" in workflow["publish"]["needs"], (
        "the rocket would lead to a branch not there yet"
    )
