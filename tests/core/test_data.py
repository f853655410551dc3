"""CIFAR-10 in memory: the sample and the cache, both refused where a byte is off."""

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from wnlib import data, load_cifar10
from wnlib.data import MD5, SAMPLE_MD5, DataError, cache_dir


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Six batches of 20 made-up records in a folder, known by their md5 sums."""
    rng = np.random.default_rng(0)
    for name in MD5:
        table = rng.integers(0, 256, (20, 3073), dtype=np.uint8)
        table[:, 0] %= 10
        (tmp_path / name).write_bytes(table.tobytes())
        monkeypatch.setitem(MD5, name, hashlib.md5(table.tobytes()).hexdigest())
    return tmp_path


def records(images, labels):
    """The official binary layout again, from the tensors."""
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    labels = labels.numpy().astype(np.uint8)[:, None]
    return np.concatenate([labels, images.flatten(1).numpy()], 1).tobytes()


def refused(root):
    with pytest.raises(DataError) as caught:
        load_cifar10(full=True, cache=root)
    return str(caught.value)


def flip(path, at):
    blob = bytearray(path.read_bytes())
    blob[int(at * len(blob))] ^= 0x10
    path.write_bytes(blob)


# --- the embedded sample


def test_sample_is_balanced_and_has_its_md5_sums(sample):
    assert sample.train_labels.bincount().tolist() == [200] * 10
    assert sample.test_labels.bincount().tolist() == [100] * 10
    assert repr(sample) == "Cifar10(sample: 2,000 + 1,000 images)"
    train = records(sample.train_images, sample.train_labels)
    test = records(sample.test_images, sample.test_labels)
    sums = [hashlib.md5(part).hexdigest() for part in (train, test)]
    assert sums == list(SAMPLE_MD5.values())
    assert sample.digest == hashlib.md5("".join(sums).encode()).hexdigest()
    images = np.frombuffer(train + test, np.uint8).reshape(-1, 3073)[:, 1:]
    assert len(np.unique(images, axis=0)) == 3000


def test_sample_is_the_first_of_each_class(sample, user_cache):
    if not all((user_cache / name).is_file() for name in MD5):
        pytest.skip("the full CIFAR-10 is not in the user's cache; python -m wnlib data --full")
    full = load_cifar10(full=True, cache=user_cache)
    assert full.train_labels.bincount().tolist() == [5000] * 10
    assert full.test_labels.bincount().tolist() == [1000] * 10
    for part, count in (("train", 200), ("test", 100)):
        images, labels = getattr(full, f"{part}_images"), getattr(full, f"{part}_labels")
        ours, ours_labels = getattr(sample, f"{part}_images"), getattr(sample, f"{part}_labels")
        for c in range(10):
            assert torch.equal(ours[ours_labels == c], images[labels == c][:count])


@pytest.fixture
def sample_copy(tmp_path, monkeypatch):
    """The embedded sample where it can be damaged."""
    source = data.resources.files("wnlib") / "sample"
    shutil.copytree(str(source), tmp_path / "package" / "sample")
    monkeypatch.setattr(data.resources, "files", lambda _: tmp_path / "package")
    return tmp_path / "package" / "sample"


@pytest.mark.parametrize("at", [0.0, 0.001, 0.5, 0.999])
def test_flipped_bit_in_the_sample_is_found(sample_copy, at):
    flip(sample_copy / "test.png", at)
    found = (DataError, OSError, SyntaxError)  # as Pillow says, where it finds it first
    with pytest.raises(found):
        load_cifar10()


def test_swapped_labels_in_the_sample_are_found(sample_copy):
    path = sample_copy / "test.txt"
    path.write_text(path.read_text()[::-1])
    message = r"test part has md5 [0-9a-f]{32}, not 5475799aaea34454f2521c96a8ac2efc: incomplete or"
    with pytest.raises(DataError, match=message):
        load_cifar10()


# --- the cache


def test_cache_is_used_alone(fake):
    loaded = load_cifar10(full=True, cache=str(fake))
    blob = b"".join((fake / name).read_bytes() for name in MD5)
    train = records(loaded.train_images, loaded.train_labels)
    assert train + records(loaded.test_images, loaded.test_labels) == blob
    assert repr(loaded) == "Cifar10(full: 100 + 20 images)"
    assert loaded.digest == hashlib.md5("".join(MD5.values()).encode()).hexdigest()


def test_cache_dir_follows_the_environment(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert str(cache_dir()) == os.environ["WNLIB_CACHE"]
    monkeypatch.setenv("WNLIB_CACHE", "~/there")
    assert cache_dir() == Path("/home/someone/there")
    monkeypatch.delenv("WNLIB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/x")
    assert cache_dir() == Path("/var/x/wnlib")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path("/home/someone/.cache/wnlib")


def test_missing_batch_is_named(fake):
    path = fake / "data_batch_3.bin"
    path.unlink()
    assert refused(fake) == (
        f"CIFAR-10 is not in {fake} (No such file or directory); "
        "fetch it with: python -m wnlib data --full"
    )
    path.mkdir()
    assert "(Is a directory)" in refused(fake)


@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_damaged_batch_is_named_with_its_md5(fake, damage):
    path = fake / "test_batch.bin"
    if damage == "flip":
        flip(path, 0.5)
    else:
        path.write_bytes(path.read_bytes()[:-3073])
    found, expected = hashlib.md5(path.read_bytes()).hexdigest(), MD5["test_batch.bin"]
    assert refused(fake) == f"test_batch.bin has md5 {found}, not {expected}: incomplete or altered"
