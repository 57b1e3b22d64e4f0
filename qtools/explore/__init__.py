"""Figures that answer to the hand: one class each, alive with and without a kernel."""

from qtools.explore._base import Explorable
from qtools.explore.bits_chart import BitsChart
from qtools.explore.budget import Budget
from qtools.explore.error_lab import ErrorLab
from qtools.explore.fixed_point import FixedPoint
from qtools.explore.mask_lab import MaskLab
from qtools.explore.number_lines import NumberLines
from qtools.explore.observer_lab import ObserverLab
from qtools.explore.one_bit_ablations import OneBitAblations
from qtools.explore.one_bit_writer import OneBitWriter
from qtools.explore.packed_dot import PackedDot
from qtools.explore.rank_lab import RankLab
from qtools.explore.rank_one import RankOne
from qtools.explore.scoreboard import Scoreboard
from qtools.explore.sensitivity import Sensitivity
from qtools.explore.sign_flip import SignFlip
from qtools.explore.straight_through import StraightThrough
from qtools.explore.svid_lab import SVIDLab
from qtools.explore.temperature import Temperature

__all__ = [
    "BitsChart",
    "Budget",
    "ErrorLab",
    "Explorable",
    "FixedPoint",
    "MaskLab",
    "NumberLines",
    "ObserverLab",
    "OneBitAblations",
    "OneBitWriter",
    "PackedDot",
    "RankLab",
    "RankOne",
    "SVIDLab",
    "Scoreboard",
    "Sensitivity",
    "SignFlip",
    "StraightThrough",
    "Temperature",
]
