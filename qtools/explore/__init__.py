"""Figures that answer to the hand: one class each, alive with and without a kernel."""

from qtools.explore._base import Explorable
from qtools.explore.budget import Budget
from qtools.explore.error_lab import ErrorLab
from qtools.explore.fixed_point import FixedPoint
from qtools.explore.number_lines import NumberLines
from qtools.explore.observer_lab import ObserverLab
from qtools.explore.sensitivity import Sensitivity
from qtools.explore.straight_through import StraightThrough

__all__ = [
    "Budget",
    "ErrorLab",
    "Explorable",
    "FixedPoint",
    "NumberLines",
    "ObserverLab",
    "Sensitivity",
    "StraightThrough",
]
