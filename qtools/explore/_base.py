"""Explorables: small figures that answer to the hand, in a notebook and in a page without a kernel.

Each is an anywidget: Python traits hold the state, one ES module draws it. The module imports
nothing and asks no network, so the very same text also runs in a static page. For that the
``text/html`` of an explorable carries the module, the state, and a few lines that stand in for
the notebook's model.
"""

from __future__ import annotations

import html
import json
import math
import re
from functools import cache
from importlib.resources import files
from typing import Any, ClassVar

import anywidget
import ipywidgets  # type: ignore[import-untyped]
import traitlets

_FALLBACK = "This figure answers to the hand. Open this chapter in the built book or run the cell."


class Explorable(anywidget.AnyWidget):
    """Base class: state in traits tagged ``state=True``, drawing in an ES module.

    A subclass names its script and says in one sentence what can be moved.

    Attributes
    ----------
    script : str
        File beside this one. It defines ``compute(state)``, which returns the numbers shown, and
        ``explorable = {render({model, el})}``; the helpers of ``_common.js`` are in scope.
    helpers : tuple of str
        Further files whose helpers it uses, ``_hash.js`` and ``_jacobi.js``.
    moves : str
        What the reader can move: shown where scripts do not run, as on GitHub.
    """

    script: ClassVar[str] = ""
    helpers: ClassVar[tuple[str, ...]] = ()
    moves: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if "script" in cls.__dict__:  # not in the classes traitlets makes at run time
            cls._esm = module_text(cls.script, cls.helpers)
        super().__init_subclass__(**kwargs)

    def state(self) -> dict[str, Any]:
        """Return the state as plain numbers, strings and booleans, in the order declared."""
        return {name: getattr(self, name) for name in self.traits(state=True)}

    def compute(self) -> dict[str, float]:
        """Return every number the figure shows, computed by ``qtools``.

        The browser computes the same numbers by itself; ``tests/browser`` compares the two.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define compute()")

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        data, metadata = super()._repr_mimebundle_(**kwargs) or ({}, {})
        return {**data, "text/plain": repr(self), "text/html": self.to_html()}, metadata

    def __repr__(self) -> str:
        """Name and state, the same every time: stored outputs must not change on their own."""
        values = ", ".join(f"{name}={value!r}" for name, value in self.state().items())
        return f"{type(self).__name__}({values})"

    def to_html(self) -> str:
        """Return a self-contained HTML fragment in which the figure runs without a kernel.

        It holds no id and nothing random, so it can stand many times on a page and re-executing a
        notebook does not change it.
        """
        name = type(self).__name__
        state = html.escape(json.dumps(self.state(), allow_nan=False), quote=True)
        module = f'const NAME = "{name}";\n{self._esm}\n{script_text("_page.js")}'
        return (
            f'<div class="qtools-explorable" data-explorable="{name}" data-state="{state}">'
            f"<p>{html.escape(self.moves)} {_FALLBACK}</p></div>\n"
            f'<script type="module">\n{escape_script(module)}</script>\n'
        )

    @traitlets.default("layout")
    def _full_width(self) -> Any:
        return ipywidgets.Layout(width="100%")


def state_trait(trait: traitlets.TraitType[Any, Any]) -> Any:
    """Tag a trait as part of an explorable's state, kept in step with the browser."""
    return trait.tag(sync=True, state=True)


class Finite(traitlets.Float[float, float]):
    """A float between two limits; unlike ``traitlets.Float`` it refuses NaN."""

    def validate(self, obj: Any, value: Any) -> float:
        number: float = super().validate(obj, value)
        if not math.isfinite(number):
            raise traitlets.TraitError(
                f"{self.name} must be a finite number from {self.min} to {self.max}, got {value}"
            )
        return number


def escape_script(text: str) -> str:
    """Return JavaScript that may stand inside a ``<script>`` element.

    Only ``</script`` and ``<!--`` can end or derail it. In JavaScript strings and regular
    expressions, where alone they may occur, a backslash after ``<`` changes nothing.
    """
    return re.sub("<(?=/script|!--)", r"<\\", text, flags=re.IGNORECASE)


@cache
def script_text(name: str) -> str:
    """Return a script of this folder without its comment lines and indentation.

    Half of a source file is there for its readers, not for the browser.
    """
    lines = (files(__package__) / name).read_text(encoding="utf-8").splitlines()
    kept = (line.strip() for line in lines)
    return "\n".join(line for line in kept if line and not line.startswith("//")) + "\n"


@cache
def module_text(script: str, helpers: tuple[str, ...] = ()) -> str:
    """Return one self-contained ES module: style, shared helpers, and the explorable's script."""
    style = json.dumps(script_text("_common.css").replace("\n", " "), ensure_ascii=False)
    parts = [f"const CSS = {style};\n", *map(script_text, ("_common.js", *helpers, script))]
    return "".join(parts) + "export default explorable;\n"
