"""What the arrays of compiled logs hold, cell by cell.

Lives here: the names of cells, and the arrays put together.  Never here: code, compiled (`compiled.py`) or
not (`columns.py`).  Numba's cache does not see a change here: let `compiled.py` change too, if only its date.

    rows     one per key: where its block is, its room, its first and last entry, its follow
    arena    blocks of 2, 4, 8 ... entries; an entry is its time, its values, and a cell per stack
    follows  of keys with many entries: where each window starts, where each stack begins and ends
    sums     likewise: the exact sums of each window, two floats each (`exact.py`)
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

START, ROOM, BASE, END, NEWEST, FOLLOWED, ROW_CELLS = range(7)
"""Cells of a row.  NEWEST is a time.  FOLLOWED is one more than the number of its follow, 0 for none."""
WIDTHS, COLUMNS, ENTRY, ENTRIES_MAX, FIRST_WIDTH = range(5)
"""Cells of the layout: numbers of widths, columns and an entry's cells; the most entries of a key; then
the widths in ms, the longest first, then SUM, PEAKS and DIPS of each column."""
SUM, PEAKS, DIPS = range(3)
"""Where a column's sums begin, and which stacks are its own; -1 for none."""
WHY, TOP, FOLLOWS, FREE_FOLLOW, FREE_BLOCKS = range(5)
"""Cells of the room: why an event was not entered, what is used; one more than where what is free begins."""
ROOM_CELLS: Final = 64
VALUE_MAX, ROUND_HIGH, ROUND_LOW, HIGH_MAX, LOW_MAX, SPLIT_CELLS = range(6)
"""Cells of a column's `exact.Split`."""
ROW, TIME, MARK, FIRST_COUNT = range(4)
"""Whole numbers of an event in a batch: its row (-1: unusual), time and watermark; then, for each window, its
entries; then, for each, the time since the entry before, -1 for none."""
TOTAL, MEAN, MAX, MIN, FIRST, READS = range(6)
"""What is read of one column over one window, and how many that are."""
UNUSUAL, FULL = 1, 2
"""Why an event was not entered: it is for `windows.py`; the arrays must grow."""
FEW_MAX: Final = 16
"""Entries of a key that is looked through; with half of it a key is followed no more."""


class Kept(NamedTuple):
    """All that is kept; `floats` is the memory of `arena`."""

    rows: Ints
    arena: Ints
    floats: Floats
    follows: Ints
    sums: Floats
    room: Ints
    layout: Ints
    split: Floats


class Batch(NamedTuple):
    """Events, one per line, and what is read for them; a line of `floats` begins with a value per column."""

    ints: Ints
    floats: Floats
