"""Run notebooks alone, as Colab does: one file in an empty folder, whose first cell gets the rest.

    python tools/lone.py [01-why-reparameterize ...]

Without names: all that the built site offers (`make site`). Git, pip and the kernel are real: git
gets the branch that tools/pack.py writes, from this machine, pip installs into an environment on
top of this one. `google.colab` is a stub, except where the real one is installed.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

import nbformat
import pack
import repository
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

ROOT = Path(__file__).parent.parent
STUB = ROOT / "tests" / "stub"
TIMEOUT = 600  # seconds a cell may take
KERNEL = "alone"


class Machine:
    """What Colab lends: a Python that has torch, a kernel that has google.colab, and no book."""

    def __init__(self, folder: Path, origin: Path) -> None:
        """`origin` is what git clones in place of the repository on GitHub."""
        self.folder = folder
        python = folder / "environment" / "bin" / "python"
        venv.create(folder / "environment", with_pip=False)
        there = {path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"}}
        (packages,) = folder.glob("environment/lib/python*/site-packages")
        (packages / "below.pth").write_text("\n".join(sorted(there)))
        spec = folder / "jupyter" / "kernels" / KERNEL / "kernel.json"
        spec.parent.mkdir(parents=True)
        start = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        start.append("--IPKernelApp.log_level=ERROR")  # it warns of transport on this machine
        spec.write_text(json.dumps({"argv": start, "display_name": KERNEL, "language": "python"}))
        startup = folder / "ipython" / "profile_default" / "startup" / "colab.py"
        startup.parent.mkdir(parents=True)
        startup.write_text("import google.colab\n")
        settings = folder / "gitconfig"
        names = {repository.PLACEHOLDER, repository.name() or repository.PLACEHOLDER}
        github = "".join(f"  insteadOf = https://github.com/{name}\n" for name in names)
        settings.write_text(f'[url "{origin.as_uri()}"]\n{github}')
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if name not in {"PYTHONPATH", "VIRTUAL_ENV", "OMP_WAIT_POLICY"}
        } | {
            "GIT_CONFIG_GLOBAL": str(settings),
            "IPYTHONDIR": str(folder / "ipython"),
            "JUPYTER_PATH": str(folder / "jupyter"),
            "PIP_NO_BUILD_ISOLATION": "0",  # which means: without isolation, so without a network
            "PYTHONPATH": "" if _is_colab() else str(STUB),
            "WNLIB_QUICK": "1",
        }

    def run(self, notebook: Any) -> Any:
        """In a new folder that holds nothing else; raise as nbclient does.

        Its name is one that a shell would take apart.
        """
        content = Path(tempfile.mkdtemp(prefix="a folder;touch x;", dir=self.folder))
        return self.client(notebook, content).execute(env=self.environment)

    def client(self, notebook: Any, folder: Path) -> NotebookClient:
        nbformat.write(notebook, folder / "notebook.ipynb")
        os.environ["JUPYTER_PATH"] = self.environment["JUPYTER_PATH"]  # the client looks there, too
        resources = {"metadata": {"path": str(folder)}}
        return NotebookClient(notebook, timeout=TIMEOUT, kernel_name=KERNEL, resources=resources)


def _is_colab() -> bool:
    try:
        return importlib.util.find_spec("google.colab") is not None
    except ModuleNotFoundError:
        return False


def publish(folder: Path) -> Path:
    """The branch that Colab opens, in a repository of its own."""
    pack.write(folder)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (
        ["init", "--quiet", "--initial-branch", repository.BRANCH],
        ["add", "--all"],
        [*identity, "commit", "--quiet", "--message", "The notebooks"],
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def wrong(before: Any, after: Any) -> list[str]:
    """What a run shows that it should not, or no longer shows; a line each.

    An object whose HTML cannot be made is an error on the page, and none to nbclient.
    """
    found = []
    for n, (old, new) in enumerate(zip(before.cells, after.cells, strict=True), 1):
        for output in new.get("outputs", []):
            if output.output_type == "error":
                found.append(f"cell {n}, {output.ename}: {output.evalue}")
        if _html(old) > _html(new):
            found.append(f"cell {n} no longer shows its figure or table")
    return found


def _html(cell: Any) -> int:
    return sum("text/html" in output.get("data", {}) for output in cell.get("outputs", []))


def main(names: list[str]) -> int:
    status = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        machine = Machine(folder, publish(folder / "origin"))
        stored = folder / "origin" / "book"
        for name in names or sorted(path.stem for path in stored.glob("*.ipynb")):
            begin = time.perf_counter()
            before = nbformat.read(stored / f"{name}.ipynb", as_version=4)
            try:
                after = machine.run(nbformat.read(stored / f"{name}.ipynb", as_version=4))
            except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
                status, said = 1, str(error).strip()
            else:
                found = wrong(before, after)
                status |= bool(found)
                said = "; ".join(found) or "runs"
            print(f"{name}: {said}, {time.perf_counter() - begin:.0f} s", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
