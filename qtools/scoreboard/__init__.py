"""Every measured network of the book in one table, made from the records in results/."""

from qtools.scoreboard.front import beats, front, rivals
from qtools.scoreboard.row import FAMILIES, MODELS, Row, table
from qtools.scoreboard.sources import SOURCES, absent, board

__all__ = [
    "FAMILIES",
    "MODELS",
    "SOURCES",
    "Row",
    "absent",
    "beats",
    "board",
    "front",
    "rivals",
    "table",
]
