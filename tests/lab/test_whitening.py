"""Whitenings that outlast a process: found again, or, damaged or not, done without."""

from pathlib import Path

import numpy as np
import pytest
import torch

from wnlib import inputs
from wnlib.inputs import ZCA
from wnlib.lab.whitening import Whitenings


@pytest.fixture(scope="module")
def zca() -> ZCA:
    """Of the right shape; its numbers mean nothing."""
    return ZCA(torch.randn(3072), torch.rand(3072), torch.randn(1, 3072).repeat(3072, 1), 1e-5)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WNLIB_CACHE", str(tmp_path / "own"))
    return tmp_path / "own"


def test_the_lab_has_the_core_use_it():
    assert isinstance(inputs.fitted, Whitenings)


def test_what_is_set_is_found_in_another_process(folder, zca):
    Whitenings()["digest"] = zca
    assert [path.name for path in folder.iterdir()] == ["whitening-digest.npz"]
    found = Whitenings().get("digest")
    for name in ("mean", "eigenvalues", "eigenvectors"):
        assert torch.equal(getattr(found, name), getattr(zca, name))
    assert Whitenings().get("other") is None


def cut(blob):
    return blob[: len(blob) // 2]


def flip(blob):
    return cut(blob) + bytes([blob[len(blob) // 2] ^ 1]) + blob[len(blob) // 2 + 1 :]


@pytest.mark.parametrize("damage", [cut, flip, lambda _: b"", lambda _: b"junk" * 100])
def test_a_damaged_file_is_none(folder, zca, damage):
    Whitenings()["digest"] = zca
    [path] = folder.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert Whitenings().get("digest") is None


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("a cache file was executed",))


@pytest.mark.parametrize(
    "content",
    [
        {"mean": np.zeros(3), "values": np.zeros(3), "vectors": np.zeros((3, 3))},
        {"mean": np.zeros(3072)},
        {"mean": np.array([Evil()], dtype=object)},
    ],
    ids=["small", "short", "program"],
)
def test_other_content_is_none(folder, content):
    folder.mkdir()
    np.savez(folder / "whitening-digest.npz", **content)
    assert Whitenings().get("digest") is None


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, zca, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("WNLIB_CACHE", str(tmp_path / "file"))
    there = Whitenings()
    there["digest"] = zca
    assert there.get("digest") is zca
    assert (tmp_path / "file").read_text() == "in the way"
