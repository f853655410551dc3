"""The front ends, put together: a module for a widget, one script for all figures of a site."""

import re
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
_IMPORT = re.compile(r'^import (\{[^;]*?\}) from "\./(\w+)\.js";\n', re.M)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:const|function\*?|class) (\w+))", re.M)
_DEFAULT = re.compile(r"^export default (.*;)$", re.M)


def module(script: str) -> str:
    """The figure's front end and what it imports, as one ES module for anywidget."""
    return f"{bundle([script])}export default ${script}.default;\n"


def site_script() -> str:
    """Every figure's front end in one classic script, which also runs from `file://`.

    It waits until the page is whole, then brings to life all figures on it.
    """
    sources = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.js"))}
    names = [name for name, text in sources.items() if _DEFAULT.search(text)]
    fronts = ", ".join(f"{name}: ${name}.default" for name in names)
    return f'"use strict";\n(() => {{\n{bundle(names)}$base.present({{ {fronts} }});\n}})();\n'


def bundle(scripts: list[str]) -> str:
    """Each script once, after those that it imports, in a scope of its own."""
    order: list[str] = []

    def visit(script: str) -> None:
        for _, other in _IMPORT.findall(_text(script)):
            visit(other)
        if script not in order:
            order.append(script)

    for script in scripts:
        visit(script)
    return "".join(map(_scoped, order))


@cache
def _text(script: str) -> str:
    return (FOLDER / f"{script}.js").read_text(encoding="utf-8")


def _scoped(script: str) -> str:
    """A script as a constant that holds its exports, without comments and indentation."""
    text = _IMPORT.sub(r"const \1 = $\2;\n", _text(script))
    exports = [*_EXPORT.findall(text), *(["default: front"] if _DEFAULT.search(text) else [])]
    text = _DEFAULT.sub(r"const front = \1", _EXPORT.sub("", text))
    text = re.sub(r"^\s*(//|/\*\*).*\n|^\s+", "", text, flags=re.M)
    return f"const ${script} = (() => {{\n{text}return {{ {', '.join(exports)} }};\n}})();\n"
