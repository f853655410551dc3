"""The commands around the book: what a user sees when something is missing; what must not leak."""

import contextlib
import hashlib
import inspect
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import figures
import pytest
import repository
from packaging.requirements import Requirement
from packaging.version import Version

import wnlib
import wnlib.lab

ROOT = Path(__file__).parent.parent.parent
PACKAGE = [p for p in (ROOT / "wnlib").rglob("*.py") if p.stem != "__main__"]
TOOLS = ("sh", "make", "awk", "sed", "grep", "tail", "cat", "cksum", "cp", "uname", "rm", "mkdir")
TOOLS += ("touch", "find")

# Stands for Python, for the Python of a virtual environment, and for its pip; what pip would say
# is in the file `pip-says`, and each call of it leaves a line in `pip-calls`.
FAKE_PYTHON = """#!/bin/sh
case "$*" in
  *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  *"-m pip --version") ;;
  *"-m http.server"*) exec REAL "$@" ;;
  *"-m pip"* | *"-m uv"*)
    echo "$*" >>pip-calls
    [ ! -e pip-says ] || { cat pip-says >&2; exit 1; } ;;
  *print*) echo VERSION ;;
esac
"""
FAKE_BUILD = """#!/bin/sh
echo built >>builds
mkdir -p _build/.doctrees _build/html
touch _build/html/index.html
[ ! -e warns ] || { echo "page.md:3: WARNING: no such label"; echo "and so on"; exit 1; }
"""


class Checkout:
    """A checkout with nothing installed, and a PATH with only what is put on it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder / "a checkout", folder / "bin"
        self.folder.mkdir()
        self.bin.mkdir()
        copied = ("Makefile", "requirements.txt", "constraints.txt", "pyproject.toml")
        for name in (*copied, "_config.yml", "_toc.yml"):
            shutil.copy(ROOT / name, self.folder)
        shutil.copytree(ROOT / "tools", self.folder / "tools")
        (self.folder / "book").mkdir()
        (self.folder / "book" / "intro.md").write_text("# A book\n")
        for name in TOOLS:
            path = shutil.which(name)
            assert path, f"these tests need {name}"
            (self.bin / name).symlink_to(path)
        self.put("df", 'echo "Filesystem 1024-blocks Used Available Capacity Mounted on"\n'
                 'echo "/dev/a disk 90000000 1 89999999 1% /a place"')  # fmt: skip

    def put(self, name: str, script: str) -> Path:
        """A program of this name on the PATH."""
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(script if script.startswith("#!") else f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    def python(self, version: str = "3.12", name: str = "python3") -> Path:
        script = FAKE_PYTHON.replace("VERSION", version)
        return self.put(name, script.replace("REAL", sys.executable))

    def make(self, *arguments: str, **environment: str) -> tuple[int, str, list[str]]:
        """Exit status, standard output, and the lines on standard error but for make's own."""
        done = subprocess.run(
            ["make", "--no-print-directory", *arguments],
            cwd=self.folder,
            env={"PATH": str(self.bin), **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
        return done.returncode, done.stdout, lines

    def pip_calls(self) -> list[str]:
        calls = self.folder / "pip-calls"
        return calls.read_text().splitlines() if calls.exists() else []


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_help_lists_every_command(checkout: Checkout) -> None:
    status, said, errors = checkout.make()
    assert (status, errors) == (0, [])
    for target in (
        *("book", "site", "offline", "test", "coverage", "measure", "links"),
        *("train", "execute", "lint", "clean", "distclean"),
    ):
        assert re.search(rf"^make {target} +\w", said, re.MULTILINE), f"help leaves out {target}"


HINT = "install Python 3.11 to 3.14, or name one: make PYTHON=/path/to/python3"


def test_no_python(checkout: Checkout) -> None:
    status, _, errors = checkout.make("test")
    assert status == 2
    assert errors == [f"No Python found: {HINT}"]
    assert checkout.make("test", "PYTHON=python9")[2] == [f"PYTHON=python9 does not run: {HINT}"]


def test_a_python_that_is_too_old(checkout: Checkout) -> None:
    checkout.python("3.10")
    refused = f"Python 3.10 ({{}}) is too old for this book: {HINT}"
    assert checkout.make("book")[2] == [refused.format("python3")]
    named = checkout.python("3.9", "some python")
    refused = refused.replace("3.10", "3.9")
    assert checkout.make("test", f"PYTHON={named}")[2] == [refused.format(named)]
    assert not (checkout.folder / ".venv").exists()


def test_a_python_that_is_newer_than_tested_gets_the_newest_versions(checkout: Checkout) -> None:
    checkout.python("3.15")
    status, _, [warning] = checkout.make("setup")
    assert status == 0
    assert warning.startswith("Python 3.15 is newer than those that this book is tested with")
    assert checkout.pip_calls()[0].endswith(" -r requirements.txt")
    assert checkout.make("setup") == (0, "", []), "it is set up again"
    checkout.python("3.14", "python3.14")
    (checkout.folder / ".venv" / "bin" / "python").unlink()
    _, said, errors = checkout.make("setup")
    assert "with Python 3.14" in said, "a tested one is there"
    assert errors == []


def test_other_versions(checkout: Checkout) -> None:
    """As CI asks for them: the newest, and PyTorch's build without CUDA."""
    checkout.python()
    assert checkout.make("setup", CONSTRAINTS="", TORCH="cpu")[0] == 0
    newest = [call.partition("install ")[2] for call in checkout.pip_calls()]
    assert newest[0] == "--quiet --disable-pip-version-check uv"
    assert newest[1].endswith("--torch-backend cpu -r requirements.txt")
    assert checkout.make("setup", CONSTRAINTS="none.txt")[2] == [
        "CONSTRAINTS=none.txt cannot be read"
    ]


def test_a_newer_python_beside_an_old_one(checkout: Checkout) -> None:
    checkout.python("3.10")
    checkout.put("python3.13", "exit 127")  # what a version manager leaves on the PATH
    checkout.python("3.12", "python3.12")
    status, said, errors = checkout.make("setup")
    assert (status, errors) == (0, [])
    assert "with Python 3.12" in said


def test_another_python_than_that_of_the_environment(checkout: Checkout) -> None:
    checkout.python("3.12")
    checkout.make("setup")
    other = checkout.python("3.13", "python3.13")
    assert checkout.make("setup", f"PYTHON={other}")[2] == [
        ".venv was made with Python 3.12, not 3.13: run 'make distclean' first"
    ]


def test_full_disk(checkout: Checkout) -> None:
    checkout.python()
    checkout.put("df", 'echo "F 1024-blocks U A C M"; echo "/dev/sda1 9000000 1 2340000 80% /"')
    status, _, errors = checkout.make("test")
    assert status == 2
    assert len(errors) == 1
    assert re.fullmatch(
        r"The disk is nearly full: about \d+ GB are needed here, 2\.3 GB are free; .*", errors[0]
    )
    assert checkout.pip_calls() == []


def test_second_setup_does_nothing(checkout: Checkout) -> None:
    checkout.python()
    status, said, errors = checkout.make("setup")
    assert (status, errors) == (0, [])
    assert len(said.splitlines()) == 1, "installing says more than one line"
    calls = checkout.pip_calls()
    assert calls[0].endswith(" -r requirements.txt -c constraints.txt")
    assert checkout.make("setup") == (0, "", [])
    assert checkout.pip_calls() == calls, "a second run asks pip, and so the network, again"
    (checkout.folder / "constraints.txt").write_text("torch==3\n")
    (checkout.folder / ".venv" / "kept").touch()
    assert checkout.make("setup")[0] == 0
    assert len(checkout.pip_calls()) > len(calls), "new requirements are not installed"
    assert (checkout.folder / ".venv" / "kept").exists(), "an update starts from nothing"


@pytest.mark.parametrize(
    ("log", "advice"),
    [
        (
            "WARNING: Retrying (Retry(total=0)): Failed to establish a new connection\n"
            "ERROR: No matching distribution found for torch",
            "check the network",
        ),
        ("ERROR: Could not install packages: [Errno 28] No space left on device", "disk is full"),
        ("ERROR: Cannot install a and b: they conflict", "log is .venv/pip.log"),
    ],
)
def test_pip_fails(checkout: Checkout, log: str, advice: str) -> None:
    checkout.python()
    (checkout.folder / "pip-says").write_text(log + "\n")
    status, _, errors = checkout.make("book")
    assert status == 2
    assert errors[:-1] == [log.splitlines()[-1]], "pip's own reason is not shown"
    assert advice in errors[-1]


def test_interrupted_setup_starts_again(checkout: Checkout) -> None:
    checkout.python()
    (checkout.folder / "pip-says").write_text("ERROR: no\n")
    assert checkout.make("setup")[0] == 2
    rest = checkout.folder / ".venv" / "half a package"
    rest.touch()
    (checkout.folder / "pip-says").unlink()
    status, said, _ = checkout.make("setup")
    assert status == 0
    assert "Installing" in said, "half an environment is taken for a whole one"
    assert not rest.exists(), "half an environment is built upon"


def test_a_moved_checkout_starts_again(checkout: Checkout) -> None:
    checkout.python()
    assert checkout.make("setup")[0] == 0
    checkout.folder = checkout.folder.rename(checkout.folder.with_name("elsewhere"))
    assert "Installing" in checkout.make("setup")[1], "its programs name the old folder's Python"
    assert checkout.make("setup") == (0, "", [])


def test_site_is_built_once(built: Checkout) -> None:
    checkout = built
    builds = checkout.folder / "builds"
    assert checkout.make("site") == (0, "", []), "a second run is not silent"
    assert builds.read_text() == "built\n", "the site is built though nothing changed"

    page = checkout.folder / "book" / "intro.md"
    later = page.stat().st_mtime + 60
    os.utime(page, (later, later))
    (checkout.folder / "warns").touch()
    status, _, errors = checkout.make("site")
    assert status == 2
    assert errors == [
        "page.md:3: WARNING: no such label",
        "The book was not built, for the reasons above; the whole log is _build/site.log",
    ]
    left = checkout.folder / "_build" / ".doctrees"
    assert not left.exists(), "the next build would pass over the page with the warning"
    assert checkout.make("site")[0] == 2, "a site that failed is taken for built"


def test_clean_keeps_what_took_long(checkout: Checkout) -> None:
    for name in (".venv", "runs", "_build", ".pytest_cache"):
        (checkout.folder / name).mkdir()
    (checkout.folder / "wnlib").mkdir()
    (checkout.folder / "tests").mkdir()
    assert checkout.make("clean")[0] == 0
    left = {path.name for path in checkout.folder.iterdir()}
    assert {".venv", "runs"} <= left
    assert not {"_build", ".pytest_cache"} & left


@pytest.fixture
def built(checkout: Checkout) -> Checkout:
    """A checkout whose book is built."""
    checkout.python()
    checkout.make("setup")
    build = checkout.put("jupyter-book", FAKE_BUILD)
    build.rename(checkout.folder / ".venv" / "bin" / "jupyter-book")
    assert checkout.make("site")[0] == 0
    return checkout


def at_a_terminal(checkout: Checkout, port: int) -> tuple[subprocess.Popen[str], int]:
    """`make book` with a terminal as its standard output, and our end of that."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["make", "--no-print-directory", "book", f"PORT={port}"],
        cwd=checkout.folder,
        env={"PATH": str(checkout.bin)},
        stdout=theirs,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    os.close(theirs)
    return process, ours


def errors(process: subprocess.Popen[str]) -> str:
    assert process.stderr
    return process.stderr.read()


def test_book_is_served_until_interrupted(built: Checkout) -> None:
    (built.folder / "_build" / "html" / "index.html").write_text("the first page")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process, terminal = at_a_terminal(built, port)
    with process:
        said = os.read(terminal, 1000).decode()
        address = re.search(r"http://127\.0\.0\.1:\d+/", said)
        assert address, f"no address in {said!r}"
        for _ in range(600):
            with contextlib.suppress(OSError), urllib.request.urlopen(address[0]) as page:
                assert page.read() == b"the first page"
                break
            time.sleep(0.1)
        else:
            pytest.fail("nobody answers there")
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
        assert "Traceback" not in errors(process)
    os.close(terminal)


def test_book_on_a_taken_port(built: Checkout) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        process, terminal = at_a_terminal(built, other.getsockname()[1])
        with process:
            assert process.wait(60) == 2
            said = errors(process).splitlines()
        os.close(terminal)
    assert "Address already in use" in said[0]
    assert said[1] == "try: make book PORT=8001"


def test_book_without_a_terminal_only_tells(built: Checkout) -> None:
    assert built.make("book") == (0, "_build/html/index.html\n", [])


@pytest.mark.parametrize(
    ("origin", "name"),
    [
        ("https://github.com/ada/a.book", "ada/a.book"),
        ("https://me:token@github.com/ada/a.book.git/", "ada/a.book"),
        ("git@github.com:ada/book.git", "ada/book"),
        ("ssh://git@github.com/ada/book", "ada/book"),
        ("https://gitlab.com/ada/book", None),
        ("https://github.com.example.org/ada/book", None),
        ("/somewhere/github.com/ada/book", None),
        ("", None),
    ],
)
def test_the_repository_is_that_of_the_origin(tmp_path: Path, origin: str, name: str) -> None:
    assert repository.name(tmp_path) is None, "no clone, but for one that lies around it"
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    command = ["git", "-C", tmp_path, "config", "remote.origin.url", origin]
    subprocess.run(command, check=True)
    assert repository.name(tmp_path) == name
    (tmp_path / "within").mkdir()
    assert repository.name(tmp_path / "within") is None


def test_the_name_gives_the_site_s_address() -> None:
    assert repository.site("Ada/a.book") == "https://Ada.github.io/a.book/"
    assert repository.site("ada/Ada.github.io") == "https://ada.github.io/"


def requirements(lines: list[str]) -> dict[str, Requirement]:
    asked = (line.partition("#")[0].strip() for line in lines)
    return {r.name.lower(): r for r in map(Requirement, filter(None, asked))}


def test_requirements_agree() -> None:
    """The package's are the book's, and each list of pins keeps within them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    book = requirements((ROOT / "requirements.txt").read_text().splitlines())
    for name, asked in requirements(project).items():
        lowest = {str(s) for s in asked.specifier}
        assert lowest <= {str(s) for s in book[name].specifier}, f"they differ on {name}"
    for kind in ("", "-lowest", "-colab"):
        pins = requirements((ROOT / f"constraints{kind}.txt").read_text().splitlines())
        for name, asked in book.items():
            if name in pins or kind != "-colab":
                [pin] = pins[name].specifier
                assert pin.version in asked.specifier, f"constraints{kind}.txt: {pins[name]}"
                if kind == "-lowest":
                    lowest = next(s.version for s in asked.specifier if s.operator == ">=")
                    assert Version(pin.version) == Version(lowest), f"{pins[name]} is not lowest"


def test_actions_are_pinned() -> None:
    """A tag can be moved; a commit cannot."""
    for path in (ROOT / ".github" / "workflows").iterdir():
        for action in re.findall(r"uses: (.*)", path.read_text()):
            assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", action), f"{path.name}: {action}"


def lines(*patterns: str) -> int:
    """Of the project's own files of these names."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    there = [path for path in map(ROOT.joinpath, names.splitlines()) if path.exists()]
    assert there, patterns
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in there)


@pytest.mark.parametrize(
    ("tests", "tested"),
    [
        (
            ("tests/book/*.py", "tests/browser/*.py", ":(glob)tests/*.py"),
            ("book/*.py", "book/figures/*.js", "book/_static/*.css", "book/_static/*.js"),
        ),
        (("tests/project/*.py",), ("tools/*", "Makefile", ".github/*", ".ci/*")),
        (("tests/core/*.py",), (":(glob)wnlib/*.py",)),
        (("tests/lab/*.py",), ("wnlib/lab/*.py",)),
    ],
    ids=["book", "project", "core", "lab"],
)
def test_a_test_is_no_longer_than_what_it_tests(
    tests: tuple[str, ...], tested: tuple[str, ...]
) -> None:
    assert lines(*tests) <= lines(*tested, ":!book/_static/vendor")


def test_the_core_is_read_at_one_sitting() -> None:
    assert lines(":(glob)wnlib/*.py") <= 900


def test_the_lab_is_read_in_an_hour() -> None:
    assert lines("wnlib/lab/*.py") <= 1150


def test_wheel_has_the_whole_package(tmp_path: Path) -> None:
    """What pip installs from a repository, as in Colab: subpackages, front ends and the sample."""
    pytest.importorskip("setuptools", reason="needs setuptools; with pip: pip install setuptools")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "wnlib", tmp_path / "wnlib")
    code = "from setuptools import build_meta; build_meta.build_wheel('.')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        packed = {name for name in file.namelist() if name.startswith("wnlib/")}
    files = (path.relative_to(ROOT) for path in (ROOT / "wnlib").rglob("*") if path.is_file())
    assert packed == {path.as_posix() for path in files if "__pycache__" not in path.parts}


@pytest.mark.parametrize("package", [wnlib, wnlib.lab, figures], ids=lambda p: p.__name__)
def test_what_is_public_is_explained(package: ModuleType) -> None:
    page = (ROOT / "book" / "api.md").read_text()
    for name in package.__all__:
        assert getattr(package, name).__doc__, f"{name} has no docstring"
        assert re.search(rf":: {package.__name__}\.{name}\b", page), f"{name} is not in api.md"


def test_the_figures_arguments_are_those_of_their_page() -> None:
    """Traits hide them from the page's own reading, so book/api.md spells them out."""
    text = (ROOT / "book" / "api.md").read_text()
    spelled = dict(re.findall(r"autoclass:: figures\.(\w+)\((.*)\)", text))
    for name in figures.__all__:
        kind, arguments = getattr(figures, name), spelled[name]
        if "__init__" not in vars(kind):
            assert arguments == "**traits"
            continue
        _, *real = inspect.signature(kind.__init__).parameters.values()
        bare = [each.replace(annotation=inspect.Parameter.empty) for each in real]
        assert str(inspect.Signature(bare)) == f"({arguments})"


def test_the_package_draws_nothing() -> None:
    """It imports where nothing is that draws; what it needs is all that pip is told to install."""
    without = ["matplotlib", "scipy", "anywidget", "ipywidgets", "IPython", "figures"]
    names = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in PACKAGE]
    code = f"import sys\nsys.modules |= dict.fromkeys({without})\n"
    code += "\n".join(f"import {name.removesuffix('.__init__')}" for name in names)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_examples_of_the_readme_run() -> None:
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL):
        exec(code, {})


def project_files(keep: Callable[[Path], bool]) -> list[Path]:
    """The project's own text files, with or without git."""
    skip = {".git", ".venv", "_build", "vendor", "runs", "shared", "__pycache__"}
    kinds = {".py", ".md", ".ipynb", ".toml", ".txt", ".yml", ".cff", ".cfg", ".sh", ".css", ".bib"}
    found = []
    for folder, inner, names in os.walk(ROOT):
        inner[:] = [n for n in inner if n not in skip and not n.endswith(("_cache", ".egg-info"))]
        found += [Path(folder) / n for n in names if Path(n).suffix in kinds or n == "Makefile"]
    return [path for path in found if keep(path)]


def test_no_traces_of_a_machine() -> None:
    """Registries are reached through their clients; a path of one machine is none on another."""
    hosts = [
        r"pypi\.(org|python)",
        r"pythonhosted\.",
        r"npmjs\.",
        r"registry\.[a-z]+\.(org|com)",
    ]
    homes = [r"/home/(?!someone|me/)\w+/", r"/root/", r"/Users/\w+/"]
    leak = re.compile("|".join(hosts + homes))
    this = Path(__file__).name
    files = project_files(lambda path: path.name not in {this, "test_book.py"})
    assert len(files) > 20
    for path in files:
        found = leak.search(path.read_text(encoding="utf-8"))
        assert not found, f"{path.relative_to(ROOT)} names {found and found[0]}"


def test_vendored_scripts_are_what_they_say() -> None:
    folder = ROOT / "book" / "_static" / "vendor"
    table = (folder / "VENDORED.md").read_text()
    listed = re.findall(r"^\| `(\S+)` .*`([0-9a-f]{64})` \|$", table, re.MULTILINE)
    scripts = {p.relative_to(folder).as_posix() for p in folder.rglob("*.*js")}
    assert {name for name, _ in listed} == scripts
    for name, digest in listed:
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name
