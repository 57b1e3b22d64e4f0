"""The tests of `qtools.affine` must notice each mistake that is easy to make there."""

from __future__ import annotations

import pytest

from tools.mutants import MUTANTS, UNCHANGED, caught


@pytest.mark.slow
def test_an_unchanged_copy_passes():
    assert not caught(UNCHANGED)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_mutant_is_caught(mutant):
    assert caught(mutant)
