"""The benchmark: what it measures, in which turns, and what it makes of the numbers."""

import dataclasses
import json
import subprocess
import sys
import time

import pytest
import torch
from torch.utils.data import DataLoader

from wnlib import Norm, Recipe
from wnlib.lab import baseline, bench
from wnlib.lab.bench import GROUPS, bench_text, group_of
from wnlib.lab.cli import main
from wnlib.training import build

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
CONFIGURATIONS = list(map(str, Norm))


# --- turns


def test_ways_take_turns_and_warm_up_unseen():
    log = []

    def way(name, seconds):
        while True:
            log.append(name)
            time.sleep(seconds)
            yield

    said = []
    ways = {"a": way("a", 0.03), "b": way("b", 0.001)}
    seconds = bench.take_turns(ways, CPU, rounds=2, block=2, say=said.append)
    assert "".join(log) == "aaabbb" * 3
    assert [len(each) for each in seconds.values()] == [2, 2]
    assert min(seconds["a"]) >= 0.03
    assert min(seconds["b"]) >= 0.001
    assert said == ["round 0 of 2", "round 1 of 2", "round 2 of 2"]


def test_ratio_is_of_the_same_round():
    assert bench.ratio([1.0, 20.0, 9.0], [1.0, 10.0, 3.0]) == 2.0
    with pytest.raises(ValueError, match="argument 2 is longer"):
        bench.ratio([1.0], [1.0, 2.0])


def test_steps_train_on_every_image_once_an_epoch(tiny):
    recipe = Recipe.paper("wn_mobn").replace(width=2, batch_size=10)
    model = build(recipe)
    before = [p.clone() for p in model.parameters()]
    seen = []
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    images, labels = bench.inputs(tiny, CPU)
    way = bench.steps(model, recipe, images, labels)
    for _ in range(8):
        next(way)
    for epoch in (seen[:4], seen[4:]):
        x = torch.cat(epoch)
        assert x.is_contiguous(memory_format=torch.channels_last)
        rows = torch.cdist(x.flatten(1), images.flatten(1)).argmin(1).tolist()
        assert sorted(rows) == list(range(40))
    assert not torch.equal(seen[0], seen[4])
    assert any(not torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


# --- the usual script


def test_usual_script_has_the_same_network(tiny):
    theirs, ours = baseline.network(3), build(Recipe.paper("wn").replace(width=3))
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(theirs.eval()(x), ours.eval()(x), rtol=1e-4, atol=1e-5)


def test_usual_script_sees_the_images(tiny):
    batches = baseline.loader(tiny, 7, workers=0)
    assert isinstance(batches, DataLoader)
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert sorted(y.tolist()) == sorted(tiny.train_labels.tolist())
    expected = tiny.train_images.double() / 127.5 - 1
    torch.testing.assert_close(x.double().mean(), expected.mean(), rtol=1e-5, atol=0)
    way = baseline.steps(2, tiny, CPU, batch=7, workers=0)
    for _ in range(7):  # beyond an epoch
        next(way)


# --- sections


def test_bench_compares_steps(tiny):
    row = bench.compare_steps(2, tiny, CPU, rounds=1, workers=0)
    assert row["width"] == 2
    assert row["ratio"] == pytest.approx(row["wnlib"] / row["plain"])  # of one round


def test_bench_compares_configurations(tiny):
    said = []
    row = bench.compare_configurations(4, tiny, CPU, batch=5, rounds=1, say=said.append)
    assert said[-1] == "width 4, 5 images a step: round 1 of 1"
    assert (row["width"], row["batch"]) == (4, 5)
    assert list(row["ms"]) == [*CONFIGURATIONS, "torch_wn"]
    over = {name: each / row["ms"]["none"] for name, each in row["ms"].items()}
    assert row["over_none"] == pytest.approx(over)


@pytest.fixture(scope="module")
def measured(tiny):
    """Every section but data, at the smallest size, and what was said meanwhile."""
    said = []
    sections = [name for name in bench.SECTIONS if name != "data"]
    return bench.bench(tiny, CPU, sections, widths=[2], rounds=1, say=said.append), said


def numbers(value):
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from numbers(each)
    elif isinstance(value, int | float):
        yield value


def test_bench_says_where_it_was_and_is_json(measured):
    result, _ = measured
    assert result["version"] == 1
    for key in ("device", "precision", "threads", "torch", "wnlib", "commit", "wall_seconds"):
        assert key in result["provenance"]
    assert result["provenance"]["data"]["name"] == "tiny"
    assert json.loads(json.dumps(result)) == result
    assert result.keys() == {"version", "provenance", *bench.SECTIONS} - {"data"}
    for name in result.keys() - {"version", "provenance"}:
        assert all(float(f"{n:.4g}") == n >= 0 for n in numbers(result[name]))


def test_bench_has_its_sections(measured):
    result, _ = measured
    assert [row["width"] for row in result["steps"]] == [2]
    assert [list(row["ms"]) for row in result["configurations"]] == [[*CONFIGURATIONS, "torch_wn"]]
    growth = result["growth"]
    assert [row["batch"] for row in growth["batch"]] == [10, 30]  # no more than there are images
    assert [row["width"] for row in growth["width"]] == [1, 2]
    assert [list(row["ms"]) for row in growth["batch"]] == [CONFIGURATIONS] * 2
    for row in growth["batch"] + growth["width"] + result["configurations"]:
        assert row["over_none"]["none"] == 1
        assert min(row["ms"].values()) > 0


def test_bench_tells_one_line_at_a_time(measured):
    _, said = measured
    assert len(said) > 5
    assert all("\n" not in text and text for text in said)


def test_profile_accounts_for_the_step(measured):
    (row,) = measured[0]["profile"]
    assert list(row["configurations"]) == CONFIGURATIONS
    for name, each in row["configurations"].items():
        assert list(each["ms"]) == list(GROUPS)
        assert each["ms"]["convolution"] > 0
        assert each["over_convolution"] == pytest.approx(
            each["step_ms"] / each["ms"]["convolution"], rel=1e-3
        )
        assert (each["ms"]["normalization"] > 0) == (name != "none")
        assert each["ms"]["optimizer"] > 0
        assert each["ms"]["data"] > 0


@pytest.mark.parametrize(
    ("operator", "group"),
    [
        ("aten::mkldnn_convolution", "convolution"),
        ("aten::convolution_backward", "convolution"),
        ("cudnn::engines_precompiled::conv2d_wgrad", "convolution"),
        ("aten::native_batch_norm_backward", "normalization"),
        ("aten::baddbmm", "normalization"),
        ("aten::linalg_vector_norm", "normalization"),
        ("aten::_fused_adam_", "optimizer"),
        ("Optimizer.step#Adam.step", "optimizer"),
        ("aten::normal_", "data"),
        ("aten::index", "data"),
        ("aten::leaky_relu_backward", "elementwise"),
        ("aten::copy_", "elementwise"),
        ("aten::addmm", "other"),
        ("aten::empty", "other"),
    ],
)
def test_operators_fall_into_groups(operator, group):
    assert group_of(operator) == group


def test_a_profile_without_convolutions_has_no_ratio():
    each = {"ms": dict.fromkeys(GROUPS, 0.0), "step_ms": 1.0, "over_convolution": None}
    how = {"device": "cpu", "precision": "-", "threads": 1}
    rows = [{"width": 2, "configurations": {"wn": each}}]
    assert bench_text({"provenance": how, "profile": rows}).endswith("1.0     -")


@pytest.fixture(scope="module")
def small(tiny):
    """Images of 8×8 pixels, whose whitening takes no time."""
    return dataclasses.replace(tiny, train_images=tiny.train_images[:, :, :8, :8])


def test_bench_measures_what_stands_around_the_steps(small):
    values = bench.bench(small, CPU, ["data"], widths=[1], rounds=1)["data"]
    assert set(values) == {"epoch_s", "ratio", "whitening_s", "first_step_s", "peak_mb"}
    assert set(values["epoch_s"]) == {"dataloader", "wnlib"}
    assert min(values["epoch_s"]["wnlib"], *values["whitening_s"].values()) > 0
    assert 1 < values["first_step_s"] < 300
    assert 100 < values["peak_mb"] < 20_000


def test_failed_first_step_is_one_line(small):
    message = r"^the first step failed: ValueError: width is from 1 to 100,000, not 0$"
    with pytest.raises(OSError, match=message):
        bench.feed(small, CPU, 0, rounds=1, say=lambda text: None)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell")
def test_peak_of_memory_is_this_process_s_own():
    block = torch.ones(150_000_000)  # 600 MB, of which a process that is started has none
    code = "from wnlib.lab.bench import peak_mb; print(peak_mb())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    child, own = float(done.stdout), bench.peak_mb()
    assert own > block.nbytes / 1e6
    assert 50 < child < own - 400


# --- the command


def test_command_prints_json_and_tables(capsys):
    arguments = ["bench", "configurations", "--widths", "1", "--rounds", "1", "--device", "cpu"]
    assert main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["configurations"][0]["width"] == 1
    assert "steps" not in result
    text = bench_text(result)
    assert "torch_wn" in text
    for number in result["configurations"][0]["over_none"].values():
        assert f"{number:.3f}" in text


def test_profile_alone(capsys):
    options = ["--widths", "1", "--rounds", "1", "--device", "cpu", "--json"]
    assert main(["bench", "--profile", *options]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result.keys() == {"version", "provenance", "profile"}


def test_tables_hold_the_numbers(measured):
    result, _ = measured
    text = bench_text(result)
    for name in (*CONFIGURATIONS, *GROUPS, "usual script"):
        assert name in text
    assert f"{result['steps'][0]['ratio']:.2f}" in text
    for row in (*result["growth"]["batch"], *result["growth"]["width"]):
        assert f"{row['ms']['bn']:.1f}" in text
    assert f"{result['profile'][0]['configurations']['wn']['over_convolution']:.2f}" in text


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--widths", "0"], "widths and rounds are whole numbers from 1 up"),
        (["--rounds", "0"], "widths and rounds are whole numbers from 1 up"),
        (["speed"], "'speed' is not one of steps, configurations, growth, data, profile"),
        (["--widths", "wide"], "wide"),
        (["--device", "tpu"], "device is auto, cpu, cuda or mps, not 'tpu'"),
    ],
)
def test_bad_input_is_one_line(capsys, argv, said):
    try:
        code = main(["bench", *argv])
    except SystemExit as stopped:
        code = stopped.code
    error = capsys.readouterr().err
    assert code == 2
    assert said in error
    assert error.count("\n") == 1


def test_batches_are_of_the_given_size(sample):
    """On a data set smaller than the minibatch, the one minibatch is the set."""
    few = dataclasses.replace(sample, train_images=sample.train_images[:5])
    assert len(bench.inputs(few, CPU)[0]) == 5
