"""CIFAR-10 in memory: the sample and the cache, both refused where a byte is off."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from wnlib import load_cifar10
from wnlib.data import MD5, SAMPLE_MD5, DataError, cache_dir


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Six batches of 20 made-up records in a folder, known by their md5 sums."""
    rng = np.random.default_rng(0)
    for name in MD5:
        (tmp_path / name).write_bytes(blob := rng.bytes(20 * 3073))
        monkeypatch.setitem(MD5, name, hashlib.md5(blob).hexdigest())
    return tmp_path


def records(data):
    """Training and test set in the official binary layout again, from the tensors."""
    train, test = (data.train_images, data.train_labels), (data.test_images, data.test_labels)
    for images, labels in (train, test):
        assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
        yield torch.cat([labels[:, None].byte(), images.flatten(1)], 1).numpy().tobytes()


def test_sample_is_balanced_and_has_its_md5_sums(sample):
    assert sample.train_labels.bincount().tolist() == [200] * 10
    assert sample.test_labels.bincount().tolist() == [100] * 10
    assert repr(sample) == "Cifar10(sample: 2,000 + 1,000 images)"
    sums = [hashlib.md5(part).hexdigest() for part in records(sample)]
    assert sums == list(SAMPLE_MD5.values())


def test_cache_is_used_alone(fake, monkeypatch):
    monkeypatch.setenv("WNLIB_CACHE", str(fake))
    loaded = load_cifar10(full=True)
    assert loaded == load_cifar10(full=True, cache=str(fake))
    assert b"".join(records(loaded)) == b"".join((fake / name).read_bytes() for name in MD5)
    assert repr(loaded) == "Cifar10(full: 100 + 20 images)"
    assert loaded.digest == hashlib.md5("".join(MD5.values()).encode()).hexdigest()


def test_cache_dir_follows_the_environment(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/x")
    monkeypatch.setenv("WNLIB_CACHE", "~/there")
    assert cache_dir() == Path("/home/someone/there")
    monkeypatch.delenv("WNLIB_CACHE")
    assert cache_dir() == Path("/var/x/wnlib")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path("/home/someone/.cache/wnlib")


@pytest.mark.parametrize(("sums", "name"), [(SAMPLE_MD5, "test"), (MD5, "data_batch_5.bin")])
def test_an_altered_part_is_refused(fake, monkeypatch, sums, name):
    message = f"^{name} has md5 {sums[name]}, not 0{{32}}: incomplete or altered; fetch it anew$"
    monkeypatch.setitem(sums, name, "0" * 32)
    with pytest.raises(DataError, match=message):
        load_cifar10(full=sums is MD5, cache=fake)


def test_a_missing_part_is_named_with_its_remedy(fake):
    (fake / "test_batch.bin").unlink()
    with pytest.raises(DataError) as caught:
        load_cifar10(full=True, cache=fake)
    said = f"CIFAR-10 is not in {fake} (No such file or directory); fetch it with: "
    assert str(caught.value).startswith(f"{said}python -m wnlib data --full, or wnlib.lab.")
