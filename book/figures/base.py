"""What all figures share: traits on one side, the same front end with and without a kernel."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import anywidget
import traitlets

from figures.plots import Plot
from figures.scripts import module


class Number(traitlets.Float):
    """A finite number: a NaN would pass a Float's min and max, and has no JSON."""

    def validate(self, obj: Any, value: Any) -> float:
        value = super().validate(obj, value)
        if not math.isfinite(value):
            self.error(obj, value)
        return value


class Figure(anywidget.AnyWidget):
    """A figure to play with: in Jupyter and Colab a widget, on a page without a kernel HTML.

    One front end, `<script>.js` beside this file, draws both from the traits. The HTML holds them
    as JSON, the picture of the first state, and no code: the site's one script finds and draws it
    (see `figures.scripts`). Where that script is not, the picture is seen.

    A subclass names its script, adds traits tagged `sync=True`, and says what `picture` draws.

    Attributes:
        title: says what to try.
        caption: says what is seen.
        data: what is drawn, as JSON has it; missing numbers are None.
    """

    script: ClassVar[str]
    # ipywidgets 7, Colab's, has a method of this name that IPython prefers to the bundle below,
    # and that sends no HTML.
    _ipython_display_: ClassVar[None] = None

    title = traitlets.Unicode().tag(sync=True)
    caption = traitlets.Unicode().tag(sync=True)
    data = traitlets.Dict().tag(sync=True)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "script" in vars(cls):  # traitlets makes subclasses of its own
            cls._esm = module(cls.script)

    def picture(self) -> Plot:
        """The first state, for pages without JavaScript."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """The figure's own synchronized traits: all that the front end draws from."""
        theirs = anywidget.AnyWidget.class_traits(sync=True)
        ours = self.traits(sync=True)
        return {n: getattr(self, n) for n in sorted(ours) if n not in theirs and n[0] != "_"}

    def html(self) -> str:
        """The figure for a page without a kernel: same state, same bytes."""
        state = json.dumps(self.state(), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        # "<" only occurs in strings there; escaped, no string can end the script element.
        return (
            f'<div class="wn-figure" data-wn-figure="{self.script}">'
            f'<script type="application/json">{state.replace("<", chr(92) + "u003c")}</script>'
            f"{self.picture()._repr_html_()}</div>"
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.title!r})"

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        data, metadata = bundle
        return data | {"text/plain": repr(self), "text/html": self.html()}, metadata


def rounded(value: Any, digits: int = 6) -> Any:
    """Numbers cut to significant digits, arrays as lists, what is not finite as None: for JSON."""
    if isinstance(value, Mapping):
        return {key: rounded(item, digits) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [rounded(item, digits) for item in value]
    return value
