"""*Train here*: what trains the five in the page, as one script that the page loads when asked to.

It holds the panel and, as strings, since from `file://` a worker only runs from one, the worker's
script (jax-js, the network in `train.js`, its messages) and the package's sample of CIFAR-10.
"""

import json
from base64 import b64encode
from importlib.resources import files
from pathlib import Path

from figures.scripts import FOLDER, bundle

JAX = FOLDER.parent / "_static" / "vendor" / "jax-js"
ENTRY = "index.cjs"


def panel_script() -> str:
    """A classic script that leaves the panel's `mount` in `globalThis.wnParts.train`."""
    parts = json.dumps({"worker": worker(), "sample": sample()})
    mount = f"(panel) => $train_panel.mount(panel, {parts})"
    body = f"{bundle(['train_panel'])}(globalThis.wnParts ??= {{}}).train = {{ mount: {mount} }};"
    return f'"use strict";\n(() => {{\n{body}\n}})();\n'


def worker(script: str = "train_worker") -> str:
    """What the worker runs: jax-js as `jax`, then a script, and those that it imports."""
    return f"{_jax()}{bundle([script])}"


def sample() -> dict[str, dict[str, str]]:
    """The sample's two parts: a PNG of tiles in base64, and a digit for each tile."""
    folder = files("wnlib") / "sample"
    return {
        part: {
            "png": b64encode((folder / f"{part}.png").read_bytes()).decode(),
            "labels": (folder / f"{part}.txt").read_text().strip(),
        }
        for part in ("train", "test")
    }


def _jax() -> str:
    """The library's files as they come, CommonJS modules, each run when it is first required."""
    license = _read(JAX / "LICENSE")
    modules = "".join(
        f'"./{path.name}": (module, exports, require) => {{\n{_read(path)}\n}},\n'
        for path in sorted(JAX.glob("*.cjs"))
    )
    return (
        f"/* jax-js\n{license}*/\nconst modules = {{\n{modules}}};\nconst loaded = {{}};\n"
        "function require(name) {\n"
        "  if (loaded[name]) return loaded[name].exports;\n"
        "  const module = (loaded[name] = { exports: {} });\n"
        "  modules[name](module, module.exports, require);\n"
        "  return module.exports;\n}\n"
        f'const jax = require("./{ENTRY}");\n'
    )


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
