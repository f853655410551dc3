"""CIFAR-10 in memory: the sample and the cache, both refused where a byte is off."""

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from wnlib import data, load_cifar10
from wnlib.data import CLASSES, MD5, SAMPLE_MD5, DataError, cache_dir


@pytest.fixture
def fake(monkeypatch):
    """Six batches of 20 made-up records, known by their md5 sums."""
    rng = np.random.default_rng(0)
    batches = {}
    for name in MD5:
        table = rng.integers(0, 256, (20, 3073), dtype=np.uint8)
        table[:, 0] %= 10
        batches[name] = table.tobytes()
    for name, blob in batches.items():
        monkeypatch.setitem(MD5, name, hashlib.md5(blob).hexdigest())
    return batches


def write(root, batches):
    root.mkdir(exist_ok=True, parents=True)
    for name, blob in batches.items():
        (root / name).write_bytes(blob)


def refused(root):
    with pytest.raises(DataError) as caught:
        load_cifar10(full=True, cache=root)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def assert_is(loaded, batches):
    """The official binary layout again, from the tensors."""
    assert loaded.name == "full"
    assert loaded.train_images.dtype == loaded.test_images.dtype == torch.uint8
    assert loaded.train_labels.dtype == loaded.test_labels.dtype == torch.int64
    labels = torch.cat([loaded.train_labels, loaded.test_labels]).numpy().astype(np.uint8)
    images = torch.cat([loaded.train_images, loaded.test_images]).flatten(1).numpy()
    assert len(loaded.test_labels) * 5 == len(loaded.train_labels)
    table = np.concatenate([labels[:, None], images], 1)
    assert table.tobytes() == b"".join(batches.values())


# --- the embedded sample


def layout(images, labels):
    return np.concatenate([labels.numpy().astype(np.uint8)[:, None], images.flatten(1).numpy()], 1)


def test_sample_is_balanced(sample):
    assert sample.train_images.shape == (2000, 3, 32, 32)
    assert sample.test_images.shape == (1000, 3, 32, 32)
    assert sample.train_images.dtype == sample.test_images.dtype == torch.uint8
    assert sample.train_labels.bincount().tolist() == [200] * 10
    assert sample.test_labels.bincount().tolist() == [100] * 10
    assert len(CLASSES) == 10
    assert repr(sample) == "Cifar10(sample: 2,000 + 1,000 images)"


def test_sample_has_its_md5_sums(sample):
    train = layout(sample.train_images, sample.train_labels)
    test = layout(sample.test_images, sample.test_labels)
    sums = [hashlib.md5(t.tobytes()).hexdigest() for t in (train, test)]
    assert sums == list(SAMPLE_MD5.values())
    assert sample.digest == hashlib.md5("".join(sums).encode()).hexdigest()
    assert len(np.unique(np.concatenate([train, test])[:, 1:], axis=0)) == 3000


def test_sample_is_the_first_of_each_class(sample, user_cache):
    if not all((user_cache / name).is_file() for name in MD5):
        pytest.skip("the full CIFAR-10 is not in the user's cache; python -m wnlib data --full")
    full = load_cifar10(full=True, cache=user_cache)
    assert full.train_labels.bincount().tolist() == [5000] * 10
    assert full.test_labels.bincount().tolist() == [1000] * 10
    assert repr(full) == "Cifar10(full: 50,000 + 10,000 images)"
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


def flip(path, at):
    blob = bytearray(path.read_bytes())
    blob[int(at * len(blob))] ^= 0x10
    path.write_bytes(blob)


@pytest.mark.parametrize("at", [0.0, 0.001, 0.5, 0.999])
def test_flipped_bit_in_the_sample_is_found(sample_copy, at):
    flip(sample_copy / "test.png", at)
    with pytest.raises(
        (DataError, OSError, SyntaxError)
    ):  # as Pillow says, where it finds it first
        load_cifar10()


def test_swapped_labels_in_the_sample_are_found(sample_copy):
    path = sample_copy / "test.txt"
    path.write_text(path.read_text()[::-1])
    message = r"test part has md5 [0-9a-f]{32}, not 5475799aaea34454f2521c96a8ac2efc: incomplete or"
    with pytest.raises(DataError, match=message):
        load_cifar10()


# --- the cache


def test_cache_is_used_alone(fake, tmp_path):
    write(tmp_path, fake)
    loaded = load_cifar10(full=True, cache=str(tmp_path))
    assert_is(loaded, fake)
    sums = "".join(hashlib.md5(b).hexdigest() for b in fake.values())
    assert loaded.digest == hashlib.md5(sums.encode()).hexdigest()


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


def test_missing_batch_is_named(fake, tmp_path):
    assert refused(tmp_path / "none") == (
        f"CIFAR-10 is not in {tmp_path / 'none'} (No such file or directory); "
        "fetch it with: python -m wnlib data --full"
    )
    write(tmp_path, fake)
    (tmp_path / "data_batch_3.bin").unlink()
    assert "(No such file or directory)" in refused(tmp_path)
    (tmp_path / "data_batch_3.bin").mkdir()
    assert "(Is a directory)" in refused(tmp_path)


@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_damaged_batch_is_named_with_its_md5(fake, tmp_path, damage):
    write(tmp_path, fake)
    path = tmp_path / "test_batch.bin"
    if damage == "flip":
        flip(path, 0.5)
    else:
        path.write_bytes(path.read_bytes()[:-3073])
    found = hashlib.md5(path.read_bytes()).hexdigest()
    expected = MD5["test_batch.bin"]
    assert refused(tmp_path) == (
        f"test_batch.bin has md5 {found}, not {expected}: incomplete or altered"
    )
