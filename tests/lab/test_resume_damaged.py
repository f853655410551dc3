"""Checkpoints and records that are damaged, or made to do damage, are refused in one line."""

import io
import zipfile
from importlib import import_module

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from training import altered, refused, saved, small, stop_after_two

import wnlib
from wnlib import Norm, Recipe, train
from wnlib.lab import Run, checkpoint, resume
from wnlib.lab.record import RunError
from wnlib.train import build, build_optimizer

pytestmark = pytest.mark.usefixtures("on_the_cpu", "one_thread")
module = import_module("wnlib.train")  # the name in the package is the function


def cut(blob):
    return blob[: len(blob) // 2]


def flip(blob):
    half = len(blob) // 2
    return blob[:half] + bytes([blob[half] ^ 1]) + blob[half + 1 :]


def squeezed(blob):
    """The same, compressed, which torch would read."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(blob)) as old, zipfile.ZipFile(buffer, "w", 8) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return buffer.getvalue()


def first(table):
    return next(iter(table))


def bomb(state):
    """Lists in lists in lists: a few bytes, and no end of printing them."""
    value = [0.0]
    for _ in range(60):
        value = [value] * 10
    state["rows"][0][2] = value


DAMAGED = {
    "cut": cut,
    "flip": flip,
    "empty": lambda _: b"",
    "junk": lambda _: b"junk",
    "compressed": squeezed,
    "no dictionary": lambda _: saved([1, 2]),
    "no model": altered(lambda s: s.pop("model")),
    "no rows": altered(lambda s: s.pop("rows")),
    "empty rows": altered(lambda s: s.update(rows=[])),
    "rows of text": altered(lambda s: s["rows"][0].__setitem__(2, "1")),
    "rows of truths": altered(lambda s: s["rows"][0].__setitem__(0, True)),
    "rows too short": altered(lambda s: s["rows"][0].pop()),
    "rows of another epoch": altered(lambda s: s["rows"].append([9, *s["rows"][1][1:]])),
    "impossible rows": altered(lambda s: s["rows"].append([3, *s["rows"][1][1:5], 7.0, 1.0])),
    "too many rows": altered(lambda s: s["rows"].extend([i, *6 * [0.5]] for i in range(3, 9))),
    "a bomb": altered(bomb),
    "another state": altered(lambda s: s.update(state="finished")),
    "other shapes": altered(lambda s: s["model"].update({first(s["model"]): torch.zeros(7)})),
    "huge shapes": altered(
        lambda s: s["model"].update({first(s["model"]): torch.zeros(1).expand(10**12)})
    ),
    "no tensors": altered(lambda s: s["model"].update({first(s["model"]): "x"})),
    "other names": altered(lambda s: s["model"].update(x=torch.zeros(7))),
    "moments of other shapes": altered(lambda s: s["optimizer"][0].update(exp_avg=torch.zeros(1))),
    "moments missing": altered(lambda s: s["optimizer"][0].pop("exp_avg_sq")),
    "moments of nothing": altered(lambda s: s["optimizer"].update({999: s["optimizer"][0]})),
    "no generator": altered(lambda s: s["generators"].update(cpu=torch.zeros(3).byte())),
    "a generator of text": altered(lambda s: s["generators"].update(cpu="x")),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_damaged_checkpoints_are_refused(tiny, stopped, damage):
    path = stopped / "checkpoint.pt"
    path.write_bytes(damage(path.read_bytes()))
    state = torch.get_rng_state()
    said = refused(small(), tiny, stopped)
    assert said.startswith(f"{path} is damaged (")
    assert said.endswith("); choose another folder, or delete this one to start again")
    assert torch.equal(torch.get_rng_state(), state)


def test_zip_bombs_are_not_unpacked(tiny, stopped, monkeypatch):
    """Many zeros in few bytes; and overlapping parts, each as large as the file."""
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda _: pytest.fail("unpacked"))
    path = stopped / "checkpoint.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("a", "w") as part:
        for _ in range(64):
            part.write(bytes(1 << 20))
    assert "checkpoint.pt is damaged (ValueError)" in refused(small(), tiny, stopped)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a", bytes(1 << 18))
        file.filelist *= 999
    assert "checkpoint.pt is damaged (ValueError)" in refused(small(), tiny, stopped)


def test_huge_checkpoints_are_not_read(tiny, stopped):
    path = stopped / "checkpoint.pt"
    with path.open("r+b") as file:
        file.truncate(10**12)  # on paper
    with pytest.raises(RunError, match=f"^{path} cannot be read: it has more than "):
        list(train(small(), tiny, stopped))
    assert path.stat().st_size == 10**12


@pytest.mark.parametrize("norm", list(Norm))
def test_real_checkpoints_are_well_below_the_limit(tmp_path, norm):
    """At the paper's width, and at the least."""
    for width in (1, 96):
        recipe = Recipe.paper(norm).replace(width=width)
        run = Run(recipe, provenance={"data": {"digest": "d"}}, state="finished")
        model = build(recipe)
        optimizer = build_optimizer(recipe, model)
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
        row = [0.1234567890123456] * 6
        run.rows = [wnlib.lab.runs.Row(i, *row) for i in range(1, 201)]
        parts = (model, optimizer, torch.amp.GradScaler("cpu", enabled=False))
        generators = resume.Generators(torch.device("cpu"), 0)
        checkpoint.save_checkpoint(tmp_path, run, *parts, generators)
        weights = sum(value.nbytes for value in model.state_dict().values())
        assert (tmp_path / "checkpoint.pt").stat().st_size < 3.2 * weights + (1 << 19)
        again = Run(recipe, provenance={"data": {"digest": "d"}})
        assert checkpoint.restore(tmp_path, again, *parts, generators)
        assert (again.rows, again.state) == (run.rows, "finished")
        assert Run.load(tmp_path).rows == run.rows  # it was behind


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_any_changed_byte_of_a_checkpoint_is_refused_or_harmless(two_epochs, data):
    folder, blob, recipe, weights = two_epochs
    at, byte = data.draw(st.integers(0, len(blob) - 1)), data.draw(st.integers(0, 255))
    end = at if data.draw(st.booleans()) else len(blob)
    (folder / "checkpoint.pt").write_bytes(blob[:at] + bytes([byte]) + blob[at + 1 : end])
    run = Run.load(folder)
    model = build(recipe)
    optimizer = build_optimizer(recipe, model)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    generators = resume.Generators(torch.device("cpu"), 0)
    try:
        checkpoint.restore(folder, run, model, optimizer, scaler, generators)
    except RunError as error:
        assert str(error).isprintable()  # noqa: PT017
    else:
        for name, value in model.state_dict().items():
            assert torch.equal(value, weights[name])


@pytest.fixture(scope="module")
def two_epochs(tiny, tmp_path_factory):
    recipe = small(width=1)
    folder = stop_after_two(recipe, tiny, tmp_path_factory.mktemp("narrow"))
    blob = (folder / "checkpoint.pt").read_bytes()
    return folder, blob, recipe, torch.load(io.BytesIO(blob), weights_only=True)["model"]


@pytest.mark.parametrize("name", ["run.json", "history.csv"])
def test_damaged_records_are_refused(tiny, stopped, name):
    path = stopped / name
    path.write_bytes(cut(path.read_bytes()))
    assert refused(small(), tiny, stopped).startswith(str(path))


@pytest.mark.parametrize("scaler", [{"scale": 0.0}, {"scale": "x"}, {"_growth_tracker": [1]}])
def test_scales_that_no_scaler_has_are_refused(tiny, stopped, monkeypatch, scaler):
    for each in (module, wnlib.train):
        monkeypatch.setattr(each, "autocast_type", lambda _: torch.float16)
    path = stopped / "checkpoint.pt"
    real = {"scale": 8.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000}
    change = altered(lambda s: s.update(scaler=real | {"_growth_tracker": 0} | scaler))
    path.write_bytes(change(path.read_bytes()))
    assert refused(small(), tiny, stopped).startswith(f"{path} is damaged (")
