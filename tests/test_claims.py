"""claim(): what passes, what fails, what it prints."""

import math
import re
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qtools.claims import CLAIM_LINE, claim

finite = st.floats(-1e300, 1e300)


def printed(capsys: pytest.CaptureFixture[str], *args: object, **kwargs: object) -> str:
    claim(*args, **kwargs)
    out = capsys.readouterr().out
    assert out.endswith("\n")
    assert out.count("\n") == 1
    return out[:-1]


@pytest.mark.parametrize(
    ("args", "kwargs", "line"),
    [
        (
            ("squared relative error of SVID, Gaussian W", 0.36312, 1 - 2 / math.pi),
            {"atol": 0.005},
            "✓ squared relative error of SVID, Gaussian W: 0.3631 (expected 0.3634 ± 0.005)",
        ),
        (("parameters", 98_554, 98_554), {}, "✓ parameters: 98554 (expected 98554)"),
        (("same", True, True), {}, "✓ same: True (expected True)"),
        (("ratio", 1.02, 1.0), {"rtol": 0.05}, "✓ ratio: 1.02 (expected 1 ± 0.05)"),
        (("error", 0.25, None), {"at_most": 0.5}, "✓ error: 0.25 (at most 0.5)"),
        (("gain", 40.123456, None), {"at_least": 40}, "✓ gain: 40.12 (at least 40)"),
        (
            ("gain", 40.123456, None),
            {"at_least": 40, "digits": 6},
            "✓ gain: 40.1235 (at least 40)",
        ),
        (("nothing lost", math.inf, None), {"at_least": 100}, "✓ nothing lost: inf (at least 100)"),
    ],
)
def test_line(capsys, args, kwargs, line):
    assert printed(capsys, *args, **kwargs) == line
    assert CLAIM_LINE.match(line)


@pytest.mark.parametrize(
    "value",
    [
        3,
        3.0,
        Fraction(3),
        np.float32(3),
        np.int8(3),
        np.array(3.0),
        torch.tensor(3.0),
        torch.tensor([3], dtype=torch.int8),
        torch.tensor(3.0, dtype=torch.bfloat16, requires_grad=True),
    ],
)
def test_any_scalar(capsys, value):
    assert printed(capsys, "three", value, 3) == "✓ three: 3 (expected 3)"
    assert printed(capsys, "three", 3, value) == "✓ three: 3 (expected 3)"


@pytest.mark.parametrize("value", [True, np.bool_(True), torch.tensor(True)])
def test_any_bool(capsys, value):
    assert printed(capsys, "yes", value, True) == "✓ yes: True (expected True)"
    with pytest.raises(AssertionError):
        claim("yes", value, False)


@pytest.mark.parametrize(
    "kwargs",
    [{"expected": 3}, {"expected": 3, "atol": 1e300}, {"at_most": 3}, {"at_least": 3}],
)
def test_nan_never_passes(capsys, kwargs):
    for nan in (math.nan, torch.tensor(math.nan), np.float32("nan")):
        with pytest.raises(AssertionError, match="nan"):
            claim("x", nan, **kwargs)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("value", "kwargs"),
    [
        (0.5001, {"at_most": 0.5}),
        (0.4999, {"at_least": 0.5}),
        (1.0, {"expected": 1.0000000000000002}),
        (1.06, {"expected": 1.0, "atol": 0.05}),
        (-1.06, {"expected": -1.0, "rtol": 0.05}),
        (2**60 + 1, {"expected": 2**60}),
        (math.inf, {"expected": 1.0, "atol": 1e300}),
    ],
)
def test_false_claims_say_all(value, kwargs):
    with pytest.raises(AssertionError) as error:
        claim("my statement", value, **kwargs)
    message = str(error.value)
    assert message.startswith("✗ my statement: ")
    exact = str(value) if isinstance(value, int) else f"{value:.17g}"
    assert exact in message


@given(finite, finite, st.floats(0, 1e300), st.floats(0, 2))
def test_expected_is_the_formula(value, expected, atol, rtol):
    tolerance = atol + rtol * abs(expected)
    if abs(value - expected) <= tolerance or value == expected:
        claim("x", value, expected, atol=atol, rtol=rtol)
    else:
        with pytest.raises(AssertionError):
            claim("x", value, expected, atol=atol, rtol=rtol)


@given(st.text("abc:() ±✓", min_size=1).filter(lambda s: s.strip() == s), finite, finite)
def test_line_is_parsed_whatever_the_statement(statement, value, width):
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        claim(statement, value, value, atol=abs(width))
        claim(statement, value, at_most=value)
        claim(statement, value, at_least=value)
    for line, kind in zip(
        out.getvalue().splitlines(), ("expected", "at_most", "at_least"), strict=True
    ):
        found = CLAIM_LINE.match(line)
        assert found is not None
        assert found["statement"] == statement
        assert float(found["value"]) == float(found[kind]) == float(f"{value:.4g}")
        assert (found["tolerance"] is not None) == (kind == "expected" and width != 0)
    assert not CLAIM_LINE.match("✗ x: 1 (expected 2)")


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "says"),
    [
        (("x", 1), {}, ValueError, "exactly one of expected, at_most, at_least, got none"),
        (("x", 1, 1), {"at_most": 2}, ValueError, "got expected, at_most"),
        (("x", 1), {"at_most": 2, "at_least": 0}, ValueError, "got at_most, at_least"),
        (("x", 1, 1), {"atol": -1}, ValueError, "atol"),
        (("x", 1, 1), {"atol": math.inf}, ValueError, "atol must be finite"),
        (("x", 1, 1), {"rtol": math.nan}, ValueError, "rtol must be finite"),
        (("x", 1, math.nan), {}, ValueError, "expected must be finite"),
        (("x", 1), {"at_most": math.inf}, ValueError, "at_most must be finite"),
        (("x", 1), {"at_most": 2, "atol": 0.1}, ValueError, "go with expected"),
        (("x", True, 1), {}, TypeError, "bool"),
        (("x", 1, True), {}, TypeError, "bool"),
        (("x", True), {"at_most": True}, TypeError, "bool"),
        (("x", True, False), {"atol": 1.0}, TypeError, "bool"),
        (("x", "1", 1), {}, TypeError, "value"),
        (("x", None, 1), {}, TypeError, "value"),
        (("x", 1j, 1), {}, TypeError, "value"),
        (("x", Decimal(1), 1), {}, TypeError, "value"),
        (("x", torch.ones(2), 1), {}, TypeError, "value"),
        (("x", 1, np.ones(2)), {}, TypeError, "expected"),
        (("", 1, 1), {}, ValueError, "statement"),
        ((" x", 1, 1), {}, ValueError, "statement"),
        (("two\nlines", 1, 1), {}, ValueError, "statement"),
    ],
)
def test_malformed_claims(args, kwargs, error, says):
    with pytest.raises(error, match=re.escape(says)):
        claim(*args, **kwargs)
