"""*Train here*: the network in JavaScript against torch, and the panel from the press on.

All of it runs on Chromium's software adapter for WebGPU, slowly: so the networks and minibatches are tiny.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chromium
import numpy as np
import pytest
import torch
from figures.scripts import site_script
from figures.train import panel_script, sample, worker
from playwright.sync_api import Browser, BrowserContext, Page, expect
from torch import Tensor, nn
from torch.nn import functional as F

from wnlib import ConvPoolCNNC, Norm, data_dependent_init_, load_cifar10

SOFTWARE = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")
WIDTH, BATCH = 4, 20
every = pytest.mark.parametrize("norm", list(Norm))

# In the page: start a worker from text, give it a message, collect what it says up to the last word.
PAGE = """<!doctype html><html lang="en"><title>t</title><script>
const work = (script, job, last, react = () => {}) => new Promise((resolve) => {
  const heard = [];
  const worker = new Worker(URL.createObjectURL(new Blob([script])));
  const hear = (data) => {
    heard.push(data);
    react(data, (message) => worker.postMessage(message));
    if (!last.includes(data.what)) return;
    worker.terminate();
    resolve(heard);
  };
  worker.onmessage = ({ data }) => hear(data);
  worker.onerror = (event) => hear({ what: last[0], error: event.message });
  worker.postMessage(job);
});
</script>"""

# In the worker: arrays of jax-js from JSON and back; `answer` is called with each job.
TOOLS = """
const { numpy: np, tree, jit } = jax;
const array = ({ shape, data }) => np.array(Float32Array.from(data)).reshape(shape);
const isJSON = (x) => Array.isArray(x?.data);
const arrays = (x) => isJSON(x) ? array(x) : Array.isArray(x) ? x.map(arrays)
  : Object.fromEntries(Object.entries(x).map(([name, part]) => [name, arrays(part)]));
const numbers = async (x) => {
  const read = await Promise.all(tree.leaves(x).map((a) => a.data()));
  return tree.unflatten(tree.structure(x), read.map((data) => Array.from(data)));
};
const key = np.array(new Uint32Array([1, 2]), { dtype: np.uint32 });
addEventListener("message", async ({ data }) => {
  await jax.init("webgpu");
  jax.defaultDevice("webgpu");
  try { postMessage({ what: "done", ...(await answer(data)) }); }
  catch (error) { postMessage({ what: "done", error: `${error}` }); }
});
"""


@pytest.fixture(scope="module")
def software(browser: Browser) -> Iterator[Browser]:
    """A browser with WebGPU in software."""
    path = chromium.find()
    launched = browser.browser_type.launch(
        executable_path=path, args=[*chromium.FLAGS, *SOFTWARE]
    )
    page = launched.new_page()
    page.goto("chrome://version")
    yield launched
    launched.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train here")
    (folder / "bare.html").write_text(PAGE, encoding="utf-8")
    (folder / "figures.js").write_text(site_script(), encoding="utf-8")
    (folder / "train.js").write_text(panel_script(), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def bare(software: Browser, home: Path) -> Iterator[Page]:
    """A page opened as a file that can start workers; its console stays silent."""
    said: list[str] = []
    page = software.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.goto((home / "bare.html").as_uri())
    has = "navigator.gpu?.requestAdapter().then((adapter) => postMessage({ what: 'done', adapter: !!adapter }))"
    if not page.evaluate("script => work(script, 0, ['done'])", has)[0].get("adapter"):
        pytest.skip("needs a Chromium with WebGPU in software (SwiftShader)")
    page.evaluate("text => { window.sample = JSON.parse(text); }", json.dumps(sample()))
    yield page
    assert said == []


def answer(page: Page, script: str, job: dict[str, Any]) -> dict[str, Any]:
    """What this script's `answer` returns for a job, in a worker with the network at hand."""
    text = worker("train") + TOOLS + script
    (found,) = page.evaluate("([text, job]) => work(text, job, ['done'])", [text, job])
    assert "error" not in found, found["error"]
    return found


# ── Against torch ──────────────────────────────────────────────────────────────────────────────


def flat(t: Tensor) -> dict[str, Any]:
    return {"shape": list(t.shape), "data": t.detach().flatten().tolist()}


def parts(model: nn.Module) -> dict[str, list[dict[str, Tensor]]]:
    """torch's network as the page has it: learned, running and frozen, by layer."""
    found: dict[str, list[dict[str, Tensor]]] = {"learned": [], "running": [], "frozen": []}
    blocks = (m for m in model.children() if isinstance(m, nn.Sequential))
    for block in blocks:
        layer, norm = block.layer, getattr(block, "norm", None)
        learned: dict[str, Tensor] = {"b": layer.bias if norm is None else norm.bias}
        running, frozen = {}, {}
        tensors = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
        for name, tensor in tensors.items():
            match name.rpartition(".")[2]:
                case "original0":
                    learned["g"] = tensor
                case "original1" | "original" | "weight":
                    learned["v"] = tensor
                case "g":
                    frozen["g"] = tensor
        if norm is not None:
            running["mu"] = norm.running_mean
        if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm1d):
            learned["gamma"] = norm.weight
            running["variance"] = norm.running_var
        for kind, those in zip(found, (learned, running, frozen), strict=True):
            found[kind].append(those)
    return found


def shaped(name: str, tensor: Tensor) -> dict[str, Any]:
    """In the page's shape: weights and their g have four dimensions, statistics the channels'."""
    if name in ("v", "g"):
        return flat(tensor.reshape(*tensor.shape, 1, 1) if tensor.ndim == 2 else tensor)
    return flat(tensor.reshape(1, -1, 1, 1) if name in ("mu", "variance") else tensor)


@every
def test_a_step_is_torchs(bare: Page, norm: Norm) -> None:
    data = load_cifar10()
    x, y = (data.train_images[:BATCH].float() - 128) / 64, data.train_labels[:BATCH]
    torch.manual_seed(0)
    plain = "frozen" if norm is Norm.NONE else "divided"
    model = ConvPoolCNNC(norm, WIDTH, noise=nn.Identity(), dropout=0.0, plain=plain)
    data_dependent_init_(model, x)
    theirs = parts(model)
    with torch.no_grad():  # away from where all start alike
        for layer in theirs["learned"]:
            layer["b"].add_(0.1 * torch.randn_like(layer["b"]))
    job = {
        "norm": norm.value,
        "x": flat(x),
        "y": y.tolist(),
        "model": {
            kind: [{name: shaped(name, t) for name, t in layer.items()} for layer in layers]
            for kind, layers in theirs.items()
        },
    }
    found = answer(
        bare,
        """async function answer({ norm, x, y, model }) {
          const net = $train.network(norm, 4, { sigma: 0, drop: 0 });
          const [images, labels, all] = [array(x), $train.indices(y), arrays(model)];
          const given = () => [tree.ref(all), images.ref, labels.ref];
          const evaluated = jit(net.evaluate)(...given());
          const step = jit((...given) => net.gradients(...given))(...given(), key);
          return { evaluated: await numbers(evaluated), step: await numbers(step) };
        }""",
        job,
    )
    with torch.no_grad():
        logits = model.eval()(x)
    assert found["evaluated"]["loss"][0] == pytest.approx(F.cross_entropy(logits, y).item(), 1e-5)
    assert found["evaluated"]["wrong"][0] == (logits.argmax(1) != y).sum()
    loss = F.cross_entropy(model.train()(x), y)
    loss.backward()
    assert found["step"]["loss"][0] == pytest.approx(loss.item(), 1e-5)
    for ours, layer in zip(found["step"]["gradient"], theirs["learned"], strict=True):
        assert ours.keys() == layer.keys()
        for name, parameter in layer.items():
            assert parameter.grad is not None
            expected = parameter.grad.flatten().numpy()
            off = np.abs(np.array(ours[name]) - expected).max()
            assert off < 1e-4 * np.abs(expected).max() + 1e-7, name


def test_adam_is_torchs(bare: Page) -> None:
    gradients = [[3.0, -1e-3, 1e-5, 0.0], [-1.0, 1e-3, 1e-5, 2.0], [0.5, 1e-3, -1e-5, 0.0]]
    parameter = nn.Parameter(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    optimizer = torch.optim.Adam([parameter], 0.01, eps=1e-4)
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
    found = answer(
        bare,
        """async function answer({ gradients }) {
          let [p, m, s] = [np.array([1, 2, 3, 4]), np.zeros([4]), np.zeros([4])];
          gradients.forEach((g, i) => ([p, m, s] = $train.adam(p, np.array(g), m, s, np.array(i + 1), 0.01)));
          return { p: await numbers(p) };
        }""",
        {"gradients": gradients},
    )
    assert found["p"] == pytest.approx(parameter.tolist(), rel=1e-6)


@every
def test_initialization_gives_mean_0_and_variance_1(bare: Page, norm: Norm) -> None:
    images = load_cifar10().train_images[:50].float() / 64 - 2
    found = answer(
        bare,
        """async function answer({ norm, x }) {
          const net = $train.network(norm, 4);
          const images = array(x);
          const model = jit(net.initialize)(jit(net.build)(key.ref), images.ref, key.ref);
          return { moments: await numbers(jit((model, x, key) => {
            const found = [];
            net.forward(model, x, key, (t, i) => {
              const out = net.byMinibatch(model, [])(t, i);
              found.push([np.mean(out.ref, [0, 2, 3]), np.var_(out.ref, [0, 2, 3])]);
              return out;
            });
            return found;
          })(model, images, key.ref)) };
        }""",
        {"norm": norm.value, "x": flat(images)},
    )
    assert len(found["moments"]) == 10
    for means, variances in found["moments"]:
        assert means == pytest.approx([0] * len(means), abs=1e-4)
        assert variances == pytest.approx([1] * len(variances), abs=1e-3)


# ── The worker ─────────────────────────────────────────────────────────────────────────────────

RACE = {
    **{"what": "race", "images": 200, "batch": 50, "epochs": 2, "width": WIDTH, "seed": 0},
    "rates": {"mobn": 0.003, "wn_mobn": 0.003},
}


def race(page: Page, react: str = "() => {}", before: str = "", **changes: Any) -> list[Any]:
    """What the worker says of a race."""
    return page.evaluate(
        f"([text, job]) => work(text, {{ ...job, sample }}, ['done', 'failed'], {react})",
        [before + worker(), RACE | changes],
    )


def rows(said: list[Any]) -> list[Any]:
    return [each["row"] for each in said if each["what"] == "row"]


def test_the_images_are_the_samples(bare: Page) -> None:
    data = load_cifar10()
    script = """
    addEventListener("message", async ({ data }) => {
      const planes = await $train_worker.pixels(data.png, 2000);
      const sum = new Uint8Array(await crypto.subtle.digest("SHA-256", planes));
      postMessage({ what: "read", sum: Array.from(sum) });
    });"""
    call = "text => work(text, { what: 'none', ...sample.train }, ['read'])"
    (said,) = bare.evaluate(call, worker() + script)
    assert bytes(said["sum"]) == hashlib.sha256(data.train_images.numpy().tobytes()).digest()


def test_a_seed_gives_the_same_run_stopped_or_not(bare: Page) -> None:
    whole = race(bare)
    found = rows(whole)
    assert [(row["norm"], row["epoch"]) for row in found] == [
        ("mobn", 1), ("wn_mobn", 1), ("mobn", 2), ("wn_mobn", 2)
    ]  # fmt: skip
    assert [row["lr"] for row in found] == [0.003] * 4
    for first, last in (found[::2], found[1::2]):
        assert last["train_loss"] < first["train_loss"] < 4
        assert 0.5 < last["test_error"] < 1
    assert [each["state"] for each in whole if "state" in each] == ["interrupted"] * 2 + ["finished"] * 2
    stop = """(said, tell) => {
      if (said.what !== "row" || said.row.epoch !== 1) return;
      tell({ what: "stop" });
      setTimeout(tell, 300, { what: "go on" });
    }"""
    assert rows(race(bare, stop)) == found
    other = rows(race(bare, epochs=1, seed=1, rates={"mobn": 0.003}))
    assert other[0]["train_loss"] != found[0]["train_loss"]


def test_a_run_that_diverges_ends(bare: Page) -> None:
    said = race(bare, rates={"none": 1e6, "bn": 0.003})
    assert [(row["norm"], row["epoch"]) for row in rows(said)] == [("none", 1), ("bn", 1), ("bn", 2)]
    assert [each["state"] for each in said if "state" in each] == ["diverged", "interrupted", "finished"]


BEFORE = {
    "no WebGPU": "Object.defineProperty(navigator, 'gpu', { value: undefined });",
    "no GPU": "navigator.gpu.requestAdapter = async () => null;",
}


@pytest.mark.parametrize("why", BEFORE)
def test_without_a_gpu_it_says_so(bare: Page, why: str) -> None:
    assert race(bare, before=BEFORE[why]) == [{"what": "failed", "why": why}]


@pytest.mark.parametrize(
    ("accident", "sentence"),
    [
        ("jax.getWebGPUDevice().destroy()", "The GPU was lost"),
        ("console.error('Out of memory')", "too little free memory"),
        ("Promise.reject(new Error('tired'))", "The GPU stopped: tired"),
    ],
)
def test_what_stops_the_gpu_is_said(bare: Page, accident: str, sentence: str) -> None:
    last = f"addEventListener('message', (event) => event.data.what === 'stop' && {accident});"
    text = worker() + last
    stop = "(said, tell) => said.what === 'turn' && tell({ what: 'stop' })"
    call = f"([text, job]) => work(text, {{ ...job, sample }}, ['done', 'failed'], {stop})"
    said = bare.evaluate(call, [text, RACE])
    assert sentence in said[-1]["why"]
