"""book/claims.md holds what the chapters print, and nothing else."""

from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from qtools.claims import claim
from tools import ledger, repository


def test_page_is_up_to_date() -> None:
    stored = (repository.ROOT / "book/claims.md").read_text(encoding="utf-8")
    assert stored == ledger.page(), "run `python -m tools.ledger` (make execute does)"


def test_page_from_printed_claims(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    claim("levels of a 3-bit code", 8, 8)
    claim("one minus 2/π (mean: of |w|)", 0.3631, 0.3634, atol=0.005)
    claim("largest error in steps", 0.4999, at_most=0.5)
    claim("accuracy in percent", 90.25, at_least=90)
    claim("both agree", True, True)
    print("✓ this line is prose")
    printed = new_output("stream", name="stdout", text=capsys.readouterr().out)
    (tmp_path / "book").mkdir()
    cells = [new_markdown_cell("# 3 Errors\n\nSub."), new_code_cell("...", outputs=[printed])]
    nbformat.write(new_notebook(cells=cells), tmp_path / "book/03_errors.ipynb")
    nbformat.write(new_notebook(cells=cells[:1]), tmp_path / "book/04_none.ipynb")
    text = ledger.page(tmp_path)
    assert "5 claims" in text
    assert text.split("## ")[1:] == [
        "[3 Errors](03_errors.ipynb)\n\n| Claim | Measured | Required |\n|:--|--:|:--|\n"
        "| levels of a 3-bit code | 8 | exactly 8 |\n"
        "| one minus 2/π (mean: of \\|w\\|) | 0.3631 | 0.3634 ± 0.005 |\n"
        "| largest error in steps | 0.4999 | at most 0.5 |\n"
        "| accuracy in percent | 90.25 | at least 90 |\n"
        "| both agree | True | True |\n"
    ]


def test_a_chapter_without_title_is_named(tmp_path: Path) -> None:
    (tmp_path / "book").mkdir()
    printed = new_output("stream", name="stdout", text="✓ two: 2 (expected 2)\n")
    cells = [new_markdown_cell("no title"), new_code_cell("", outputs=[printed])]
    nbformat.write(new_notebook(cells=cells), tmp_path / "book/05_odd.ipynb")
    with pytest.raises(ValueError, match="05_odd"):
        ledger.page(tmp_path)
