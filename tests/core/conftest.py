"""`pytest tests/core --device cuda` says on any machine whether its GPU computes right."""

import pytest
import torch

from wnlib import Norm
from wnlib.training import find_device


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="cpu (default), cuda, mps or auto")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """What the tests in test_device.py compute on; the others are of the CPU."""
    return find_device(str(request.config.getoption("--device", "cpu")))


@pytest.fixture(autouse=True)
def _seed(one_thread):
    torch.manual_seed(1)


@pytest.fixture(params=list(Norm))
def norm(request: pytest.FixtureRequest) -> Norm:
    """A test that asks for it is run for each of the five configurations."""
    return request.param


@pytest.fixture(params=["linear", "exp"])
def scale(request: pytest.FixtureRequest) -> str:
    """Likewise for weight norm's g, and s with g = eˢ."""
    return request.param
