"""`pytest tests/core --device cuda` says on any machine whether its GPU computes right."""

import pytest
import torch

from wnlib.training import find_device


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="cpu (default), cuda, mps or auto")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """What the tests in test_device.py compute on; the others are of the CPU."""
    try:
        return find_device(request.config.getoption("--device", "cpu"))
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
