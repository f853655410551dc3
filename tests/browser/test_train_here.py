"""*Train here*: the network in JavaScript against torch, and the panel from the press on.

It runs on Chromium's software adapter for WebGPU, slowly: so networks and minibatches are tiny.
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
from chromium import Visit
from figures import FiveCurves
from figures.scripts import site_script
from figures.train import panel_script, sample, worker
from playwright.sync_api import Browser, Page, expect
from torch import Tensor, nn
from torch.nn import functional as F

from wnlib import ConvPoolCNNC, Norm, data_dependent_init_, load_cifar10
from wnlib.lab import load_runs

RUNS = Path(__file__).parent.parent.parent / "book" / "runs"
RACING = "document.querySelector('[data-wn-figure]').wnFigure"
SOFTWARE = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")
WIDTH, BATCH = 4, 20
every = pytest.mark.parametrize("norm", list(Norm))

# In the page: give a worker of this text a message, collect what it says to its last word. It stays
# for the next message, since compiling takes most of the time, unless it failed.
PAGE = """<!doctype html><html lang="en"><title>t</title><script>
const workers = {};
const work = (script, job, last, react = () => {}) => new Promise((resolve) => {
  const heard = [];
  const worker = (workers[script] ??= new Worker(URL.createObjectURL(new Blob([script]))));
  const hear = (data) => {
    heard.push(data);
    react(data, (message) => worker.postMessage(message));
    if (!last.includes(data.what)) return;
    if (data.error || data.what === "failed") delete workers[script];
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
    launched = browser.browser_type.launch(executable_path=path, args=[*chromium.FLAGS, *SOFTWARE])
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
    tell = "(adapter) => postMessage({ what: 'done', adapter: !!adapter })"
    has = f"navigator.gpu?.requestAdapter().then({tell})"
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
    blocks: list[Any] = [m for m in model.children() if isinstance(m, nn.Sequential)]
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
          const step = jit((...given) => net.gradients(...given))(...given(), key.ref);
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
          for (const [i, g] of gradients.entries())
            [p, m, s] = $train.adam(p, np.array(g), m, s, np.array(i + 1), 0.01);
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
        # Batch norm adds 1e-6 to variances that are small where weights are.
        assert variances == pytest.approx(
            [1] * len(variances), abs=0.02 if norm is Norm.BN else 1e-3
        )


# ── The worker ─────────────────────────────────────────────────────────────────────────────────

RACE = {
    **{"what": "race", "images": 100, "batch": 50, "epochs": 2, "width": WIDTH, "seed": 0},
    "rates": {"mobn": 0.003},
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
    first, last = found = rows(whole)
    assert [row["epoch"] for row in found] == [1, 2]
    assert [row["lr"] for row in found] == [0.003, 0.003]
    assert 2 < last["train_loss"] < first["train_loss"] < 4
    assert 0.5 < last["test_error"] < 1
    assert [said["state"] for said in whole if "state" in said] == ["interrupted", "finished"]
    stop = """(said, tell) => {
      if (said.row?.epoch !== 1) return;
      tell({ what: "stop" });
      setTimeout(tell, 300, { what: "go on" });
    }"""
    assert rows(race(bare, stop)) == found
    assert rows(race(bare, epochs=1, seed=1))[0]["train_loss"] != first["train_loss"]


def test_a_run_that_diverges_ends(bare: Page) -> None:
    said = race(bare, rates={"none": 1e6, "mobn": 0.003})
    found = [(row["norm"], row["epoch"]) for row in rows(said)]
    assert found == [("none", 1), ("mobn", 1), ("mobn", 2)]
    states = [each["state"] for each in said if "state" in each]
    assert states == ["diverged", "interrupted", "finished"]


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


# ── The panel ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def shown(home: Path) -> Callable[[Browser, str], Visit]:
    """A page with the race, as a file or over http; the scripts lie beside it."""
    figure = FiveCurves(load_runs(RUNS / "width96-paper-40"), mode="race", train=True)
    (home / "race.html").write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>The race</title>'
        '<link rel="icon" href="data:,"><script defer src="figures.js"></script>'
        f"<main><h1>The race</h1>{figure.html()}</main>",
        encoding="utf-8",
    )
    return lambda browser, address: Visit(browser.new_context(), address, "race.html")


def test_from_the_press_to_a_curve(software: Browser, home: Path, shown: Any, bare: Page) -> None:
    asked: list[str] = []
    visit = shown(software, f"{home.as_uri()}/")
    page = visit.page
    page.on("request", lambda request: asked.append(request.url))
    assert not page.evaluate("() => 'wnParts' in window")
    page.get_by_role("button", name="Train here").click()
    panel = page.get_by_role("group", name="Train here")
    expect(panel).to_contain_text("at width 16", timeout=120_000)
    assert [url for url in asked if not url.startswith("blob:")] == [f"{home.as_uri()}/train.js"]
    panel.locator("summary").click()
    for name, value in {"images": "200", "epochs": "2", "width": "4"}.items():
        panel.locator(f"[data-name={name}]").select_option(value)
    panel.get_by_role("button", name="Start", exact=True).click()
    page.wait_for_function(f"() => {RACING}.rows('trained here').length > 0", timeout=120_000)
    panel.get_by_role("button", name="Stop").click()
    expect(panel.get_by_role("button", name="Go on")).to_be_visible()
    (row, *_) = page.evaluate(f"() => {RACING}.rows('trained here')")
    assert (row["norm"], row["epoch"]) == ("none", 1)
    assert 2 < row["train_loss"] < 4
    page.context.close()
    assert visit.problems == []


def test_without_an_adapter_the_race_stays(browser: Browser, home: Path, shown: Any) -> None:
    with chromium.served(home) as address:
        visit = shown(browser, address)
        page = visit.page
        page.get_by_role("button", name="Train here").click()
        panel = page.get_by_role("group", name="Train here")
        expect(panel).to_contain_text("this browser found none. Chrome, Edge and Safari")
        expect(panel.get_by_role("button", name="Start")).to_be_hidden()
        page.get_by_role("button", name="Play").click()
        expect(page.get_by_text("epoch 1 of 40")).to_be_visible()
        page.context.close()
    assert visit.problems == []
