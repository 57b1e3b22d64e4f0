"""The setup cell is the same everywhere, and execution stores clean, repeatable outputs."""

import re
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools import forks, notebooks, repository

NOTEBOOKS = repository.all_notebooks()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "book").mkdir()
    (tmp_path / "_config.yml").write_text("repository:\n  url: https://github.com/octocat/book\n")
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    return tmp_path


def save(root: Path, *cells: NotebookNode) -> Path:
    path = root / "book/01_small.ipynb"
    nbformat.write(new_notebook(cells=list(cells)), path)
    return path


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_setup_cell_is_the_templates(path: Path) -> None:
    notebook = notebooks.read(path)
    index = notebooks.find_setup(notebook)
    assert index == 1, f"{path.name}: run `python -m tools.notebooks stamp`"
    assert notebook.cells[1].source == notebooks.setup_source(), f"{path.name}: stamp it"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_file_is_as_the_tools_write_it(path: Path, tmp_path: Path) -> None:
    """So that running a notebook again changes only what it shows."""
    notebook = notebooks.read(path)
    stored = [dict(cell.metadata) for cell in notebook.cells]
    if path in repository.chapters():
        notebooks.normalise(notebook)
    notebooks.write(notebook, tmp_path / "again.ipynb")
    again = [dict(cell.metadata) for cell in notebook.cells]
    changed = [i for i, pair in enumerate(zip(stored, again, strict=True)) if pair[0] != pair[1]]
    assert not changed, f"{path.name}: stray metadata in cells {changed}, run `make execute`"
    same = (tmp_path / "again.ipynb").read_bytes() == path.read_bytes()
    assert same, f"{path.name}: saved by an editor, run `make execute`"


def test_setup_cell_installs_this_version_from_the_configured_address() -> None:
    source = notebooks.setup_source()
    wanted = f"git+{repository.address()}@v{repository.version()}"
    assert source.count("%pip install") == 1
    assert f'"down-to-one-bit @ {wanted}"' in source
    assert source.count("\n") + 1 <= 25
    assert "torch.manual_seed(0)" in source


def test_setup_cell_explains_what_is_missing_outside_colab() -> None:
    lines = notebooks.setup_source().replace("import qtools", "import no_such_module_here")
    code = "\n".join("    pass" if "%pip" in line else line for line in lines.splitlines())
    with pytest.raises(ModuleNotFoundError, match=r"no_such_module_here is missing.*pip install"):
        exec(code, {})


def test_stamp_inserts_after_the_title_and_is_idempotent(root: Path) -> None:
    path = save(root, new_markdown_cell("# 1 Title"), new_code_cell("print(1)"))
    assert notebooks.stamp_all(root) == [path]
    cells = notebooks.read(path).cells
    assert [cell.id == "setup" for cell in cells] == [False, True, False]
    assert "octocat/book@v1.2.3" in cells[1].source
    before = path.read_bytes()
    assert notebooks.stamp_all(root) == []
    assert path.read_bytes() == before


def test_stamp_replaces_an_old_copy(root: Path) -> None:
    old = notebooks.SETUP_FIRST_LINE + "\nprint('old')"
    path = save(root, new_markdown_cell("# 1 Title"), new_code_cell(old))
    notebooks.stamp_all(root)
    cells = notebooks.read(path).cells
    assert len(cells) == 2
    assert cells[1].source == notebooks.setup_source(root)


def test_clean_outputs_merges_streams_and_drops_widget_views(root: Path) -> None:
    view = "application/vnd.jupyter.widget-view+json"
    outputs = [
        new_output("stream", name="stdout", text="a"),
        new_output("stream", name="stdout", text="b\n"),
        new_output("stream", name="stderr", text=f"{root}/book/x.py:3: warning\n"),
        new_output("display_data", data={view: {"model_id": "1"}, "text/html": "<p>"}),
        new_output("display_data", data={view: {"model_id": "1"}}),
    ]
    cleaned = notebooks.clean_outputs(outputs, root)
    assert [o.get("text") or dict(o.data) for o in cleaned] == [
        "ab\n",
        "book/x.py:3: warning\n",
        {"text/html": "<p>"},
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/tmp/ipykernel_17/42.py:3: x", "<cell>:3: x"),
        ("/a/b/.venv/lib/python3.11/site-packages/torch/x.py:1", "torch/x.py:1"),
        ("<object at 0x7f3c2a1b0d90>", "<object at 0x…>"),
        ("<dc:date>2026-01-02T03:04:05</dc:date><g/>", "<g/>"),
        (str(Path.home() / "data"), "~/data"),
        ("see https://pytorch.org/docs", "see https://pytorch.org/docs"),
    ],
)
def test_clean_text(text: str, expected: str) -> None:
    assert notebooks.clean_text(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("read in 12.5 ms at 3.2 GB/s", "read in DURATION at RATE"),
        ("2 seconds, 1e-05 seconds", "DURATION, DURATION"),
        ("torch 2.13.0+cpu on Python 3.11.7", "torch VERSION on Python VERSION"),
        ("error 0.5 s, SQNR 37.9 dB, 8 bits", "error 0.5 s, SQNR 37.9 dB, 8 bits"),
        ("scale 0.0157, zero point -64", "scale 0.0157, zero point -64"),
        ("accuracy: 0.9031 (at least 0.9)", "accuracy: 0.9031 (at least 0.9)"),
        ("-1/2 + 3/4 and int8/uint8", "-1/2 + 3/4 and int8/uint8"),
    ],
)
def test_sanitizing_hides_the_clock_and_nothing_that_is_claimed(text: str, expected: str) -> None:
    from nbval.plugin import get_sanitize_patterns

    config = repository.ROOT / "tests/notebooks/sanitize.cfg"
    for pattern, replacement in get_sanitize_patterns(config.read_text(encoding="utf-8")):
        text = re.sub(pattern, replacement, text)
    assert text == expected


@pytest.mark.slow
def test_executing_twice_gives_the_same_bytes(root: Path) -> None:
    plot = "import matplotlib.pyplot as plt\nplt.plot([1, 2]);"
    path = save(
        root,
        new_markdown_cell("# 1 Title"),
        new_code_cell("import os\nprint(torch.rand(1).item(), os.environ['OMP_NUM_THREADS'])"),
        new_code_cell("object()"),
        new_code_cell(plot, metadata={"tags": ["hide-input"], "scrolled": True}),
    )
    notebooks.execute(path, root)
    first = path.read_bytes()
    with forks.kernels():  # and the second kernel may be one that is forked
        notebooks.execute(path, root)
    assert path.read_bytes() == first
    notebook = notebooks.read(path)
    nbformat.validate(notebook)
    assert [cell.get("execution_count") for cell in notebook.cells[1:]] == [1, 2, 3, 4]
    assert "image/svg+xml" in notebook.cells[4].outputs[0].data
    assert notebook.cells[4].metadata == {"tags": ["hide-input"]}


@pytest.mark.slow
def test_a_failing_cell_leaves_the_file_alone(root: Path) -> None:
    from nbclient.exceptions import CellExecutionError

    path = save(root, new_markdown_cell("# 1 Title"), new_code_cell("1 / 0"))
    before = path.read_bytes()
    with forks.kernels(), pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        notebooks.execute(path, root)
    assert path.read_bytes() == before
    assert list(root.glob("book/.*")) == []
