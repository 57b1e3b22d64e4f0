"""``{api}`` writes the reference of a package from its source, without importing it.

Building the pages must not need torch, so the source is read with ``ast``. Docstrings are NumPy
style; their text is treated as Markdown after a little care for formulas in plain text.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from .docstrings import Section, split_docstring
from .numbering import warn
from .repolinks import repository_address

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public_names(module: ast.Module) -> list[str] | None:
    """Names in ``__all__``, or None if the module has none."""
    for node in module.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets
        ):
            return [str(name) for name in ast.literal_eval(node.value)]
    return None


def definitions(body: list[ast.stmt], names: list[str] | None) -> Iterator[Definition]:
    """Public functions and classes defined in ``body``, in the order of the file."""
    for node in body:
        if isinstance(node, Definition):
            public = node.name in names if names is not None else not node.name.startswith("_")
            overload = any(ast.unparse(d).endswith("overload") for d in node.decorator_list)
            if public and not overload:
                yield node


def _module_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def signature(node: Definition) -> str:
    """Header of a definition as source, one parameter a line if it is long.

    Examples
    --------
    >>> signature(ast.parse("def f(x: int = 1) -> int: ...").body[0])
    'f(x: int = 1) -> int'
    """
    if isinstance(node, ast.ClassDef):
        fields = _fields(node)
        return f"class {node.name}" + (_call("", fields) if fields else "")
    arguments = node.args
    parts: list[str] = []
    defaults = [None] * (
        len(arguments.posonlyargs) + len(arguments.args) - len(arguments.defaults)
    ) + list(arguments.defaults)
    positional = [*arguments.posonlyargs, *arguments.args]
    for index, (argument, default) in enumerate(zip(positional, defaults, strict=True)):
        if not (index == 0 and argument.arg in {"self", "cls"}):
            parts.append(_argument(argument, default))
        if arguments.posonlyargs and index == len(arguments.posonlyargs) - 1:
            parts.append("/")
    if arguments.vararg:
        parts.append("*" + _argument(arguments.vararg, None))
    elif arguments.kwonlyargs:
        parts.append("*")
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        parts.append(_argument(argument, default))
    if arguments.kwarg:
        parts.append("**" + _argument(arguments.kwarg, None))
    returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    return _call(node.name, parts, returns)


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    text = argument.arg
    if argument.annotation is not None:
        text += f": {ast.unparse(argument.annotation)}"
    if default is not None:
        text += (" = " if argument.annotation is not None else "=") + ast.unparse(default)
    return text


def _call(name: str, parts: list[str], after: str = "") -> str:
    line = f"{name}({', '.join(parts)}){after}"
    if len(line) <= 72:
        return line
    return f"{name}(\n    " + ",\n    ".join(parts) + f",\n){after}"


def _fields(node: ast.ClassDef) -> list[str]:
    """What a dataclass or named tuple is made from, or the parameters of ``__init__``."""
    heads = [ast.unparse(d) for d in [*node.decorator_list, *node.bases]]
    if any("dataclass" in head or head.endswith("NamedTuple") for head in heads):
        return [
            ast.unparse(field).replace("=", " = ").replace("  =  ", " = ")
            if field.value is not None
            else ast.unparse(field)
            for field in node.body
            if isinstance(field, ast.AnnAssign) and not ast.unparse(field.target).startswith("_")
        ]
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            inner = signature(item)
            return [p.strip() for p in [inner[inner.index("(") + 1 : inner.rindex(")")]] if p]
    return []


class Api(SphinxDirective):
    """``{api} qtools``: one section for each module that has something public."""

    required_arguments = 1
    option_spec = {"order": directives.unchanged}  # noqa: RUF012  docutils' own interface

    def run(self) -> list[nodes.Node]:
        """Sections of all modules, those named in ``:order:`` first."""
        self.env.note_reread()
        package = Path(self.env.srcdir) / self.arguments[0]
        if not package.is_dir():
            raise self.error(f"no package folder {self.arguments[0]!r} beside _config.yml")
        order = self.options.get("order", "").split()
        found = {
            _module_name(path.relative_to(package)): path
            for path in sorted(package.rglob("*.py"))
            if not any(part.startswith("_") and part != "__init__.py" for part in path.parts)
        }
        found.pop("__init__", None)
        names = sorted(found, key=lambda n: (order.index(n) if n in order else len(order), n))
        sections = [self._module(name, found[name]) for name in names]
        return [section for section in sections if section is not None]

    def _module(self, name: str, path: Path) -> nodes.section | None:
        self.env.note_dependency(str(path))
        module = ast.parse(path.read_text(encoding="utf-8"))
        items = list(definitions(module.body, public_names(module)))
        if not items:
            return None
        full = f"{self.arguments[0]}.{name}"
        section = self._section(full, full)
        self._docstring(section, ast.get_docstring(module), full)
        for item in items:
            section += self._item(item, full, path)
        return section

    def _section(self, title: str, anchor: str) -> nodes.section:
        section = nodes.section(ids=[anchor], names=[anchor])
        section += nodes.title("", "", nodes.literal("", title))
        return section

    def _item(self, item: Definition, owner: str, path: Path) -> nodes.section:
        full = f"{owner}.{item.name}"
        section = self._section(item.name, full)
        section["classes"].append("api-item")
        section += self._signature(item, path)
        document = ast.get_docstring(item)
        if document is None:
            warn(f"{full} has no docstring", "api", section)
        self._docstring(section, document, full)
        if isinstance(item, ast.ClassDef):
            for method in definitions(item.body, None):
                if ast.get_docstring(method) is None:
                    continue
                box = nodes.container("", classes=["api-method"], is_div=True)
                box += self._signature(method, path)
                self._docstring(box, ast.get_docstring(method), f"{full}.{method.name}")
                section += box
        return section

    def _signature(self, item: Definition, path: Path) -> nodes.container:
        text = signature(item)
        if any("property" in ast.unparse(d) for d in item.decorator_list):
            text = text.replace("()", "", 1)
        code = nodes.literal_block(text, text, language="python", classes=["api-signature"])
        relative = path.relative_to(Path(self.env.srcdir)).as_posix()
        address = repository_address(self.config, relative) + f"#L{item.lineno}"
        link = nodes.reference("", "source", refuri=address, classes=["api-source"])
        link["aria-label"] = f"source of {item.name}"
        row = nodes.container("", code, classes=["api-head"], is_div=True)
        row += nodes.paragraph("", "", link, classes=["api-source-line"])
        return row

    def _docstring(self, parent: nodes.Element, text: str | None, name: str) -> None:
        for section in split_docstring(text or ""):
            if section.title:
                parent += nodes.paragraph(
                    "", "", nodes.strong("", section.title), classes=["api-heading"]
                )
            if section.entries:
                parent += self._entries(section, name)
            else:
                self._markdown(parent, section.text, name)

    def _entries(self, section: Section, name: str) -> nodes.definition_list:
        listing = nodes.definition_list(classes=["api-entries"])
        for term, kind, text in section.entries:
            head = nodes.term("", "", nodes.literal("", term))
            if kind:
                head += [nodes.Text(" : "), nodes.inline("", kind, classes=["api-type"])]
            body = nodes.definition()
            self._markdown(body, text, name)
            listing += nodes.definition_list_item("", head, body)
        return listing

    def _markdown(self, parent: nodes.Element, text: str, name: str) -> None:
        if text.strip():
            lines = StringList(text.splitlines(), source=name)
            self.state.nested_parse(lines, self.content_offset, parent)


def setup(app: Sphinx) -> None:
    """Register the directive."""
    app.add_directive("api", Api)
