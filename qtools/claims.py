"""Claims: a number in the book, checked where it is stated."""

import math
import numbers
import re
from typing import Any

#: A printed claim. The ledger and the tests read lines with this and nothing else.
#: Groups: statement, value, and expected (with tolerance where there is one), at_most or at_least.
CLAIM_LINE = re.compile(
    r"^✓ (?P<statement>\S.*): (?P<value>\S+) "
    r"\((?:expected (?P<expected>\S+?)(?: ± (?P<tolerance>\S+?))?"
    r"|at most (?P<at_most>\S+?)|at least (?P<at_least>\S+?))\)$"
)


def claim(
    statement: str,
    value: Any,
    expected: Any = None,
    *,
    atol: float = 0.0,
    rtol: float = 0.0,
    at_most: Any = None,
    at_least: Any = None,
    digits: int = 4,
) -> None:
    """Assert ``|value - expected| <= atol + rtol * |expected|`` (or a bound) and print one line.

    Parameters
    ----------
    statement
        What the number is: one line, as it should stand in the ledger.
    value
        A Python number or bool, or a NumPy or torch scalar (one element). NaN never passes.
    expected, at_most, at_least
        Exactly one of them. A bool is compared with a bool, exactly.
    atol, rtol
        Tolerance around `expected`; both zero means equal.
    digits
        Significant digits printed for numbers that are not integers.

    Raises
    ------
    AssertionError
        If the claim is false; the message holds statement, value and expectation.
    ValueError, TypeError
        If the claim itself is malformed.

    Examples
    --------
    >>> claim("levels of a 3-bit code", 2**3, 8)
    ✓ levels of a 3-bit code: 8 (expected 8)
    >>> claim("one minus two over pi", 0.3631, 1 - 2 / math.pi, atol=0.005)
    ✓ one minus two over pi: 0.3631 (expected 0.3634 ± 0.005)
    >>> claim("largest error in steps", 0.4999, at_most=0.5)
    ✓ largest error in steps: 0.4999 (at most 0.5)
    """
    if not statement.strip() or statement != statement.strip() or "\n" in statement:
        raise ValueError(
            f"statement must be one non-empty line without outer blanks, got {statement!r}"
        )
    given = {"expected": expected, "at_most": at_most, "at_least": at_least}
    given = {name: x for name, x in given.items() if x is not None}
    if len(given) != 1:
        raise ValueError(
            f"give exactly one of expected, at_most, at_least, got {', '.join(given) or 'none'}"
        )
    ((kind, target),) = given.items()
    value, target = _scalar("value", value), _scalar(kind, target)
    for name, x in ((kind, target), ("atol", atol), ("rtol", rtol)):
        if not math.isfinite(x):
            raise ValueError(f"{name} must be finite, got {x}")
    if min(atol, rtol) < 0 or (max(atol, rtol) > 0 and kind != "expected"):
        raise ValueError(f"atol and rtol are >= 0 and go with expected, got {atol} and {rtol}")
    if isinstance(value, bool) != isinstance(target, bool):
        raise TypeError(f"compare a bool with a bool, got {value!r} and {kind}={target!r}")
    if isinstance(value, bool) and (kind != "expected" or atol or rtol):
        raise TypeError("a bool is compared with expected, exactly")

    tolerance = atol + rtol * abs(target)
    true = {
        "expected": value == target or abs(value - target) <= tolerance,
        "at_most": value <= target,
        "at_least": value >= target,
    }[kind]
    margin = f" ± {_text(tolerance, digits)}" if tolerance else ""
    line = (
        f"{statement}: {_text(value, digits)} "
        f"({kind.replace('_', ' ')} {_text(target, digits)}{margin})"
    )
    if not true:
        exact = f"value {_text(value, 17)}, {kind} {_text(target, 17)}, tolerance {tolerance:.17g}"
        raise AssertionError(f"✗ {line}\n{exact}")
    print(f"✓ {line}")


def _scalar(name: str, x: Any) -> Any:
    """Return a Python bool or real number from a Python, NumPy or torch scalar."""
    if hasattr(x, "item"):
        try:
            x = x.item()  # needs one element
        except (ValueError, RuntimeError):
            x = None
    if not isinstance(x, bool | numbers.Real):
        raise TypeError(f"{name} must be a real number, a bool or a one-element array or tensor")
    return x


def _text(x: Any, digits: int) -> str:
    """Integers and bools in full, other numbers to `digits` significant digits."""
    if isinstance(x, bool | numbers.Integral):
        return str(x)
    return f"{float(x):.{digits}g}"
