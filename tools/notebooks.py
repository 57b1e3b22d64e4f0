"""Stamp the setup cell into all notebooks, execute chapters and store clean outputs.

Commands::

    python -m tools.notebooks stamp              # write the setup cell everywhere
    python -m tools.notebooks execute [PATH...]  # run chapters, store what they show
    python -m tools.notebooks publish-to OWNER/NAME
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from tools import repository
from tools.repository import ROOT

SETUP_ID = "setup"
SETUP_FIRST_LINE = "# Setup: the same cell opens every notebook. On Colab it installs qtools."
SETUP_TEMPLATE = (
    SETUP_FIRST_LINE
    + """
import sys

try:
    import qtools
except ModuleNotFoundError as error:
    if "google.colab" not in sys.modules:
        raise ModuleNotFoundError(
            f"{error.name} is missing: run `pip install -e .` in the book's folder, "
            "or open this notebook in Colab, where this cell installs what it needs"
        ) from None
    %pip install -q "{distribution} @ git+{address}@v{version}"
if "google.colab" in sys.modules:
    from google.colab import output

    output.enable_custom_widget_manager()
import torch
from qtools import plotting

plotting.use_style()
torch.manual_seed(0)
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)"""
)

_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
_KEPT_CELL_METADATA = ("deletable", "editable", "mystnb", "nbgrader", "tags")
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
_LANGUAGE = {"file_extension": ".py", "name": "python", "pygments_lexer": "ipython3"}
# One thread and fixed hashes: a stored output must not depend on the machine's cores.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}


def setup_source(root: Path = ROOT) -> str:
    """Return the text of the setup cell, with the address and version of the repository."""
    text = SETUP_TEMPLATE.replace("{distribution}", repository.DISTRIBUTION)
    text = text.replace("{address}", repository.address(root))
    return text.replace("{version}", repository.version(root))


def read(path: Path) -> NotebookNode:
    """Read a notebook as nbformat 4, giving cells an id where they have none."""
    return nbformat.read(path, as_version=4)


def write(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook whole or not at all, in nbformat's stable layout."""
    nbformat.validate(notebook)
    text = nbformat.writes(notebook, version=4).rstrip("\n") + "\n"
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def find_setup(notebook: NotebookNode) -> int | None:
    """Return the index of the setup cell, or None."""
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and (
            cell.get("id") == SETUP_ID or cell.source.startswith(SETUP_FIRST_LINE)
        ):
            return index
    return None


def stamp(notebook: NotebookNode, source: str) -> bool:
    """Put ``source`` into the setup cell, made after the title where missing; True if changed."""
    index = find_setup(notebook)
    if index is None:
        cell = nbformat.v4.new_code_cell(source, id=SETUP_ID, metadata={"tags": ["hide-cell"]})
        has_title = bool(notebook.cells) and notebook.cells[0].cell_type == "markdown"
        notebook.cells.insert(int(has_title), cell)
        return True
    cell = notebook.cells[index]
    changed = cell.source != source or cell.get("id") != SETUP_ID
    cell.source, cell["id"] = source, SETUP_ID
    return changed


def stamp_all(root: Path = ROOT) -> list[Path]:
    """Stamp every notebook of the book; return those that changed."""
    source = setup_source(root)
    changed = []
    for path in repository.all_notebooks(root):
        notebook = read(path)
        if stamp(notebook, source):
            write(notebook, path)
            changed.append(path)
    return changed


def clean_text(text: str, root: Path = ROOT) -> str:
    """Remove from an output what differs between machines or runs: paths, addresses, dates."""
    text = re.sub(r"/tmp/ipykernel_\d+/\d+\.py", "<cell>", text)
    # A page with data in it has thousands of slashes: these patterns would try each.
    if "/site-packages/" in text:
        text = re.sub(r"(?:/[\w.+-]+)+/site-packages/", "", text)
    if "/lib/python3." in text:
        text = re.sub(r"(?:/[\w.+-]+)+/lib/python3\.\d+/", "", text)
    text = text.replace(f"{root}/", "").replace(f"{Path.home()}/", "~/")
    if "<dc:date>" in text:
        text = re.sub(r"\s*<dc:date>[^<]*</dc:date>", "", text)
    return re.sub(r" at 0x[0-9a-f]{6,}", " at 0x…", text)


def clean_outputs(outputs: Sequence[Any], root: Path = ROOT) -> list[NotebookNode]:
    """Return outputs as they are stored: streams merged, no widget views, no paths."""
    cleaned: list[NotebookNode] = []
    for output in outputs:
        output = nbformat.from_dict(output)
        if output.output_type == "stream":
            output.text = clean_text(output.text, root)
            last = cleaned[-1] if cleaned else None
            if last is not None and last.output_type == "stream" and last.name == output.name:
                last.text += output.text  # where the kernel cut the stream is chance
                continue
        elif "data" in output:
            output.data.pop(_WIDGET_VIEW, None)
            for mime, value in output.data.items():
                if isinstance(value, str) and mime != "image/png":
                    output.data[mime] = clean_text(value, root)
            if not output.data:
                continue
        cleaned.append(output)
    return cleaned


def normalise(notebook: NotebookNode, root: Path = ROOT) -> None:
    """Drop everything that would make a re-execution differ without a reason (in place)."""
    mystnb = notebook.metadata.get("mystnb")
    notebook.metadata = nbformat.from_dict({"kernelspec": _KERNEL, "language_info": _LANGUAGE})
    if mystnb is not None:
        notebook.metadata["mystnb"] = mystnb
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict(
            {key: value for key, value in cell.metadata.items() if key in _KEPT_CELL_METADATA}
        )
        if cell.cell_type == "code":
            cell.outputs = clean_outputs(cell.outputs, root)


def execute(path: Path, root: Path = ROOT, timeout: int = 600) -> float:
    """Run one notebook from its own folder and store its outputs; return the seconds it took.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        If a cell fails. The file is then left as it was.
    """
    from nbclient import NotebookClient

    notebook = read(path)
    stamp(notebook, setup_source(root))
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        store_widget_state=False,
        extra_arguments=["--log-level=40"],
    )
    started = time.perf_counter()
    client.execute(env={**os.environ, **_ENVIRONMENT})
    seconds = time.perf_counter() - started
    normalise(notebook, root)
    write(notebook, path)
    return seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.notebooks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("stamp", help="write the setup cell into all notebooks")
    run = commands.add_parser("execute", help="run chapters and store their outputs")
    run.add_argument("paths", nargs="*", type=Path, help="notebooks (default: all chapters)")
    publish = commands.add_parser("publish-to", help="set the repository's address everywhere")
    publish.add_argument("repository", help="owner/name on GitHub")
    options = parser.parse_args(arguments)

    if options.command == "execute":
        for path in options.paths or repository.chapters():
            print(f"{path} ...", end=" ", flush=True)
            print(f"{execute(path.resolve()):.1f} s", flush=True)
        return 0
    if options.command == "publish-to":
        try:
            changed = repository.publish_to(options.repository)
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
        changed += [path for path in stamp_all() if path not in changed]
    else:
        changed = stamp_all()
    for path in changed:
        print(f"changed {path.relative_to(ROOT)}")
    print(f"{len(changed)} files changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
