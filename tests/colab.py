"""Figures as Colab has them: an ipywidgets 7, and a widget manager to enable. Prints JSON.

What a widget would send to a browser is kept in `SENT`. Run by test_colab.py, with ipywidgets 7
first on the path.
"""

import json
import sys
from typing import Any

import ipykernel.comm

SENT: list[tuple[str, dict[str, Any]]] = []


class Comm(ipykernel.comm.Comm):
    """A channel to a browser that is not there."""

    kernel = "there"  # without one, ipywidgets 7 sends nothing

    def publish_msg(self, msg_type: str, data: Any = None, *_: Any, **__: Any) -> None:
        SENT.append((msg_type, data))


ipykernel.comm.Comm = Comm  # before ipywidgets takes it

import ipywidgets  # noqa: E402
import traitlets  # noqa: E402
from drawn import FIGURES  # noqa: E402
from figures import Activations, FiveCurves  # noqa: E402
from figures.base import Figure  # noqa: E402
from IPython.core.interactiveshell import InteractiveShell  # noqa: E402

from wnlib import Recipe  # noqa: E402
from wnlib.training import Row  # noqa: E402

VIEW = "application/vnd.jupyter.widget-view+json"
# As a cell's last line is shown: `_ipython_display_` goes first, and leaves nothing to the bundle.
DISPLAY: Any = InteractiveShell.instance().display_formatter

# What stands in the HTML is tested elsewhere, and its pictures take time.
Figure.html = lambda self: f"<div>{type(self).__name__}</div>"


def updates() -> list[dict[str, Any]]:
    """The states sent since the last call."""
    found = [data["state"] for kind, data in SENT if kind == "comm_msg"]
    SENT.clear()
    return found


def construct(name: str) -> dict[str, Any]:
    """What a figure sends and shows at first."""
    SENT.clear()
    figure = FIGURES[name]()
    opened = [data["state"] for kind, data in SENT if kind == "comm_open"]
    (state,) = [state for state in opened if "_esm" in state]  # the others are of its layout
    shown = figure.state()
    data, metadata = DISPLAY.format(figure)
    return {
        "opened": opened_with(state, shown),
        "module": state["_esm"] == figure._esm and state["_model_module"] == "anywidget",
        "bundle": sorted(data),
        "model": data.get(VIEW, {}).get("model_id") == figure.model_id,
        "metadata": metadata,
    }


def opened_with(state: dict[str, Any], shown: dict[str, Any]) -> bool:
    return json.dumps({name: state[name] for name in shown}) == json.dumps(shown)


def refused(figure: Figure, name: str, value: Any) -> bool:
    try:
        setattr(figure, name, value)
    except traitlets.TraitError:
        return True
    return False


def synchronized() -> dict[str, Any]:
    """From Python to the browser and back."""
    figure = Activations()
    updates()
    figure.slope = 0.5
    sent = updates()
    wrong = [refused(figure, "slope", 2), refused(figure, "kind", "cubic")]
    told = {"method": "update", "state": {"at": 3.0}, "buffer_paths": []}
    assert figure.comm
    figure.comm.handle_msg({"content": {"data": told}, "buffers": []})
    return {
        "sent": sent,
        "refused": wrong,
        "silent": updates(),
        "slope": figure.slope,
        "at": figure.at,
    }


def added() -> list[dict[str, Any]]:
    """A run that grows by two rows."""
    curves, recipe = FiveCurves([]), Recipe.paper("wn").replace(epochs=2)
    updates()
    for epoch in (1, 2):
        curves.add(recipe, Row(epoch, 0.003, 2.0, 0.8, 1.9, 0.7, 1.0))
    return updates()


def main() -> None:
    result: dict[str, Any] = {"version": ipywidgets.__version__}
    result["plain"] = sorted(DISPLAY.format(ipywidgets.IntSlider())[0])
    result["figures"] = {name: construct(name) for name in FIGURES}
    result["synchronized"], result["added"] = synchronized(), added()
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
