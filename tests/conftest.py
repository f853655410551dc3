"""What every test may use: the embedded sample, and a cache that is not the user's."""

import importlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest
import torch

from wnlib import train
from wnlib.data import Cifar10, load_cifar10

pytest.register_assert_rewrite("training")
from training import small, stop_after_two, tiny  # noqa: E402

# No test measures time, and what one finds the next run finds again.
hypothesis.settings.register_profile("wnlib", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("wnlib")

if torch.cuda.is_available():
    import torch._dynamo  # imported late, it trips over a patched torch.cuda.is_available


@pytest.fixture(scope="session", autouse=True)
def interruptible():
    """A shell's background jobs ignore Ctrl-C, and what they start inherits that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory):
    """WNLIB_CACHE is a temporary folder, in these tests and in what they start."""
    base = tmp_path_factory.getbasetemp()
    # Side by side, pytest's processes share one: the sample is whitened once for all.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WNLIB_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def sample() -> Cifar10:
    """The embedded sample, 2,000 + 1,000 images."""
    return load_cifar10()


@pytest.fixture(scope="session", name="tiny")
def tiny_(sample: Cifar10) -> Cifar10:
    """40 training and 20 test images of the sample, for runs of a second."""
    return tiny(sample)


@pytest.fixture(scope="module")
def one_thread():
    """On busy cores, two threads on small tensors mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def on_the_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """Tests that are not of the device: a machine with a GPU runs them as any other does."""
    if request.node.get_closest_marker("device") is None:
        for kind in (torch.cuda, torch.backends.mps):
            if kind.is_available():
                monkeypatch.setattr(kind, "is_available", lambda: False)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # for the processes that they start


@pytest.fixture(scope="module")
def whole(tiny: Cifar10, one_thread):
    """What an uninterrupted run gives."""
    return list(train(small(), tiny, device="cpu"))


@pytest.fixture(scope="module")
def two(tiny: Cifar10, one_thread, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stop_after_two(small(), tiny, tmp_path_factory.mktemp("two"))


@pytest.fixture
def stopped(two: Path, tmp_path: Path) -> Path:
    """A run stopped after two epochs."""
    return shutil.copytree(two, tmp_path / "run")


@pytest.fixture(scope="session")
def javascript():
    """Evaluates an expression on a script, m, under node: javascript("base", "m.f(x)", x=1)."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node; with Debian: apt-get install nodejs")
    folder = Path(__file__).parent.parent / "book" / "figures"

    def call(script, expression, **values):
        names = ", ".join(values)
        code = (
            f"import * as m from {json.dumps((folder / f'{script}.js').as_uri())};"
            f"const {{{names}}} = {json.dumps(values)};"
            f"console.log(JSON.stringify({expression}))"
        )
        done = subprocess.run(
            [node, "--input-type=module", "-"], input=code, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return call


def pytest_configure(config: pytest.Config):
    config.addinivalue_line("markers", "device: on the best device there is, not only on the CPU")


@pytest.fixture(scope="session")
def beside() -> Iterator[Callable[[str], ModuleType]]:
    """Imports a module that lies beside the notebooks, as they do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent.parent / "book"))
        yield importlib.import_module
