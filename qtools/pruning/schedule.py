"""When to prune how much."""

from __future__ import annotations

from qtools.pruning.masks import check_sparsity


def cubic_sparsity(step: int, start: int, end: int, final: float, initial: float = 0.0) -> float:
    """``s_f + (s_i - s_f) (1 - (t - t_0) / (t_1 - t_0))³``, held at its ends outside.

    Fast at first, when there is much to spare, and slow towards the end (Zhu and Gupta 2017,
    eq. 1). One shot is ``start == end``: all at once, at that step.

    Parameters
    ----------
    step, start, end : int
        t, t_0, t_1.
    final, initial : float
        s_f, s_i, from 0 to 1.

    Raises
    ------
    ValueError
        If end is before start, or a sparsity is not from 0 to 1.

    Examples
    --------
    >>> [round(cubic_sparsity(t, 0, 100, 0.8), 2) for t in (0, 25, 50, 100)]
    [0.0, 0.46, 0.7, 0.8]
    """
    check_sparsity(final)
    check_sparsity(initial)
    if end < start:
        raise ValueError(f"end must not be before start = {start}, got {end}")
    if step >= end:
        return final
    if step <= start:
        return initial
    left = 1 - (step - start) / (end - start)
    return final + (initial - final) * left**3
