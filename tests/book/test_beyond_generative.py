"""The generative chapters' loops: same starts, exact resumption, records that fit."""

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

BOOK = Path(__file__).parent.parent.parent / "book"
sys.path.insert(0, str(BOOK))
from beyond import draw, mnist, record, training, vae  # noqa: E402

torch.set_num_threads(1)
DATA = mnist.load_mnist()


def small(model: str, start: str, **changes) -> training.Plan:
    defaults = {"lr": 0.003, "updates": 4, "every": 2, "batch": 8}
    return training.Plan(model, start, **{**defaults, **changes})


def output(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.bound(DATA.test[:8] / 255, torch.Generator().manual_seed(0))


def test_the_sample_is_checked() -> None:
    assert (len(DATA.train), len(DATA.test)) == mnist.SAMPLE_SIZE
    assert DATA.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert mnist.SAMPLE.stat().st_size < 300_000
    with pytest.raises(mnist.DataError, match="incomplete or altered"):
        mnist.check_md5("train-images-idx3-ubyte", b"other", mnist.FILES["train-images-idx3-ubyte"])


def test_idx_layout() -> None:
    blob = b"\0\0\x08\x03" + b"\0\0\0\x02\0\0\0\x01\0\0\0\x03" + bytes(range(6))
    assert mnist._idx(blob).tolist() == [[[0, 1, 2]], [[3, 4, 5]]]


def test_binarized_keeps_the_mean() -> None:
    images = torch.full((400, 28, 28), 51, dtype=torch.uint8)  # a fifth
    x = mnist.binarized(images, torch.Generator().manual_seed(0))
    assert set(x.unique().tolist()) == {0, 1}
    assert abs(x.mean() - 0.2) < 0.005


def test_pairs_start_as_the_same_function() -> None:
    """The controls: what differs between two of a pair is only what is learned."""
    bounds = {start: output(draw.build(start, 0)) for start in draw.STARTS}
    torch.testing.assert_close(bounds["small"], bounds["wn-small"])
    torch.testing.assert_close(bounds["unit"], bounds["wn-unit"], rtol=1e-4, atol=1e-3)
    assert (bounds["small"] - bounds["unit"]).abs().max() > 1
    assert (bounds["default"] - bounds["unit"]).abs().max() > 1
    pair = [output(vae.build(start, 0, DATA)) for start in ("plain-init", "wn-init")]
    torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-2)


def test_every_matrix_is_normalized() -> None:
    model = draw.build("wn-unit", 0)
    kinds = [(isinstance(m, nn.LSTMCell), name) for m, name in draw.matrices(model)]
    cell = [(True, "weight_ih"), (True, "weight_hh")]
    assert kinds == [*cell, (False, "weight"), *cell, (False, "weight")]
    for module, name in draw.matrices(model):
        assert parametrize.is_parametrized(module, name)
        lengths = getattr(module, name).norm(dim=1)
        torch.testing.assert_close(lengths, torch.ones_like(lengths))
    model = vae.build("wn-init", 0, DATA)
    layers = vae.layers(model)
    assert len(layers) > 20
    assert all(parametrize.is_parametrized(layer, "weight") for layer in layers)


def test_the_bound_is_one() -> None:
    """With a latent that is ignored and a canvas of zeros, -log p is 784 ln 2, and KL is 0."""
    model = draw.build("small", 0)
    for p in model.parameters():
        nn.init.zeros_(p)
    torch.testing.assert_close(output(model), torch.full((8,), 784 * math.log(2)))
    model.posterior.bias.data[: draw.LATENTS] = 2.0  # mean 2, std 1: 4/2 nats a latent and step
    expected = 784 * math.log(2) + draw.STEPS * draw.LATENTS * 2
    torch.testing.assert_close(output(model), torch.full((8,), expected))


def test_shapes() -> None:
    noise = torch.Generator().manual_seed(0)
    model = draw.build("unit", 0)
    assert model.sample(3, noise).shape == (3, draw.STEPS, 28, 28)
    assert model.reconstruct(DATA.test[:2] / 255, noise).shape == (2, draw.STEPS, 28, 28)
    assert vae.build("plain", 0, DATA).sample(3, noise).shape == (3, 28, 28)


@pytest.mark.parametrize(("model", "start"), [("draw", "wn-unit"), ("vae", "wn-init")])
def test_a_stopped_run_goes_on(
    model: str, start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    plan = small(model, start)
    whole = list(record.record(plan, DATA, tmp_path / "whole"))
    part = record.record(plan, DATA, tmp_path / "part")
    next(part)
    part.close()
    with monkeypatch.context() as patch:  # stopped while the last row is written
        patch.setattr(record, "_write", stop)
        with pytest.raises(KeyboardInterrupt):
            next(record.record(plan, DATA, tmp_path / "part"))
    assert record.load(tmp_path / "part").state == "interrupted"
    rest = list(record.record(plan, DATA, tmp_path / "part"))
    assert [row.update for row in rest] == [4]
    assert rest[0][:3] == whole[1][:3], "the rest differs from an uninterrupted run"
    done = record.load(tmp_path / "part")
    assert (done.state, done.plan, len(done.rows)) == ("finished", plan, 2)
    assert list(record.record(plan, DATA, tmp_path / "part")) == [], "done twice"
    assert (tmp_path / "part" / "samples.png").exists()
    assert not (tmp_path / "part" / "checkpoint.pt").exists()
    with pytest.raises(ValueError, match="another run"):
        next(record.record(small(model, start, seed=1), DATA, tmp_path / "part"))


def test_divergence_ends_a_run(tmp_path: Path) -> None:
    plan = small("draw", "unit", lr=1e30)
    rows = list(record.record(plan, DATA, tmp_path / "hot"))
    done = record.load(tmp_path / "hot")
    assert done.state == f"diverged at update {rows[-1].update}"
    assert done.bound == math.inf


def test_a_record_that_lies_is_refused(tmp_path: Path) -> None:
    list(record.record(small("draw", "unit"), DATA, tmp_path / "run"))
    table = tmp_path / "run" / "history.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(ValueError, match="finished after 2 updates"):
        record.load(tmp_path / "run")


@pytest.mark.parametrize("model", ["draw", "vae"])
def test_recorded_runs_are_those_of_the_grid(model: str) -> None:
    runs = BOOK / "runs"
    planned = {record.folder_of(plan, runs): plan for plan in record.plans(model)}
    found = [p.parent for p in (runs / f"beyond-{model}").glob("**/run.json")]
    assert found
    assert set(found) <= set(planned)
    for folder in found:
        one = record.load(folder)
        assert one.plan == planned[folder]
        assert one.state != "interrupted", folder
        assert one.about["data"]["name"] == "full"
        assert "dirty" not in one.about["commit"]
        assert (folder / "samples.png").exists() == (one.plan.seed == 0)
