"""The way of usual events through the logs of `columns.py`, compiled by Numba.

Lives here: events on their way through the arrays of `cells.py`.  Never here: keys, dicts.  All compiled code
is in this file, the one that Numba's cache on disk looks at to see whether it has changed.

Strategy: a key with few entries is looked through for each event.  One with many is followed: as a window
moves on, what leaves is taken from its sums, which leaves no error behind, and a monotonic stack per column
answers the extremes of all windows (see `index.py`).  All values are equal to the bit to `kernels.py`.
"""

from __future__ import annotations

from numba import njit

from operators.cells import (  # isort: skip
    BASE, COLUMNS, DIPS, END, ENTRIES_MAX, ENTRY, FEW_MAX, FIRST, FIRST_COUNT, FIRST_WIDTH, FOLLOWED, FOLLOWS,
    FREE_BLOCKS, FREE_FOLLOW, FULL, HIGH_MAX, LOW_MAX, MARK, MAX, MEAN, MIN, NEWEST, PEAKS, READS, ROOM,
    ROUND_HIGH, ROUND_LOW, ROW, START, SUM, TIME, TOP, TOTAL, UNUSUAL, VALUE_MAX, WHY, WIDTHS, Batch, Floats,
    Ints, Kept,
)  # fmt: skip
from operators.exact import VALUE_MIN

__all__ = ["enter_all", "refit", "release"]

compiled = njit(cache=True, error_model="numpy")
inlined = njit(inline="always", error_model="numpy")  # a call would copy the descriptions of all arrays


@compiled
def enter_all(
    rows: Ints, arena: Ints, floats: Floats, follows: Ints, sums: Floats, room: Ints, layout: Ints,
    split: Floats, batch_ints: Ints, batch_floats: Floats, begin: int, stop: int,
) -> int:  # fmt: skip
    """Enter events `begin` to `stop`, read their windows; return the first not entered, see `room[WHY]`."""
    # Python hands arrays over faster than tuples of arrays.
    kept = Kept(rows, arena, floats, follows, sums, room, layout, split)
    batch = Batch(batch_ints, batch_floats)
    room[WHY] = UNUSUAL
    for at in range(begin, stop):
        row, time, mark = batch.ints[at, ROW], batch.ints[at, TIME], batch.ints[at, MARK]
        if row < 0 or time < mark:
            return at
        for column in range(layout[COLUMNS]):
            if not _fits(kept, column, batch.floats[at, column]):
                return at
        in_order = rows[row, BASE] == rows[row, END] or rows[row, NEWEST] <= time
        if not _ready(kept, row, time, mark, in_order):
            return at
        place, is_followed = rows[row, END], in_order and rows[row, FOLLOWED] > 0
        while place > rows[row, BASE] and _time(kept, row, place - 1) > time:
            place -= 1
        is_read = is_followed or _look(kept, row, batch, at, place)
        if not is_read or not _enter(kept, row, batch, at, place):
            return at
        if is_followed:
            _read(kept, row, batch, at)
    return stop


@inlined
def _ready(kept: Kept, row: int, time: int, mark: int, in_order: bool) -> bool:
    """Forget what is over, let windows move on to an event in order, make room; False: it cannot enter."""
    base, end = kept.rows[row, BASE], kept.rows[row, END]
    while base < end and _time(kept, row, base) <= mark - kept.layout[FIRST_WIDTH]:
        base += 1
    kept.rows[row, BASE] = base
    if end - base >= kept.layout[ENTRIES_MAX]:
        return False
    if in_order and kept.rows[row, FOLLOWED] > 0 and not _move_on(kept, row, time):
        return False
    if end == kept.rows[row, ROOM] and not _make_room(kept, row):
        return False
    if kept.rows[row, FOLLOWED] == 0 and end - base >= FEW_MAX:
        if not _follow(kept, row):
            return False
        if in_order:
            _move_on(kept, row, time)
    return True


@inlined
def _cell(kept: Kept, row: int, place: int) -> int:
    """Return where an entry begins."""
    return int(kept.rows[row, START] + place * kept.layout[ENTRY])


@inlined
def _time(kept: Kept, row: int, place: int) -> int:
    """Return the time of an entry."""
    return int(kept.arena[_cell(kept, row, place)])


@inlined
def _value(kept: Kept, row: int, place: int, column: int) -> float:
    """Return a value of an entry."""
    return float(kept.floats[_cell(kept, row, place) + 1 + column])


@inlined
def _of(kept: Kept, column: int, what: int) -> int:
    """Return SUM, PEAKS or DIPS of a column."""
    return int(kept.layout[FIRST_WIDTH + kept.layout[WIDTHS] + 3 * column + what])


@inlined
def _high(kept: Kept, column: int, value: float) -> float:
    """Return a value rounded to the coarse unit."""
    return float((value + kept.split[column, ROUND_HIGH]) - kept.split[column, ROUND_HIGH])


@inlined
def _fits(kept: Kept, column: int, value: float) -> bool:
    """Return whether a value is a number that windows take as it is, and that can be summed."""
    most = kept.split[column, VALUE_MAX]
    if not -most <= value <= most or (-VALUE_MIN < value < VALUE_MIN and value != 0.0):
        return False
    low, fine = value - _high(kept, column, value), kept.split[column, ROUND_LOW]
    return _of(kept, column, SUM) < 0 or (low + fine) - fine == low


@inlined
def _add(kept: Kept, number: int, cell: int, width: int, sign: float) -> bool:
    """Add an entry to the sums of one window, or take it away; False if one goes out of bounds."""
    for column in range(kept.layout[COLUMNS]):
        at = _of(kept, column, SUM) + 2 * width
        if at >= 2 * width:
            value = kept.floats[cell + 1 + column]
            high = _high(kept, column, value)
            total = kept.sums[number, at] + sign * high
            rest = kept.sums[number, at + 1] + sign * (value - high)
            kept.sums[number, at], kept.sums[number, at + 1] = total, rest
            if abs(total) > kept.split[column, HIGH_MAX] or abs(rest) > kept.split[column, LOW_MAX]:
                return False
    return True


@inlined
def _move_on(kept: Kept, row: int, time: int) -> bool:
    """Take what has left each window at `time` from its sums; False if a sum goes out of bounds."""
    number, end = kept.rows[row, FOLLOWED] - 1, kept.rows[row, END]
    for width in range(kept.layout[WIDTHS]):
        start, horizon = kept.follows[number, width], time - kept.layout[FIRST_WIDTH + width]
        cell = _cell(kept, row, start)
        while start < end and kept.arena[cell] <= horizon:
            if not _add(kept, number, cell, width, -1.0):
                return False
            start, cell = start + 1, cell + kept.layout[ENTRY]
        kept.follows[number, width] = start
    return True


@inlined
def _enter(kept: Kept, row: int, batch: Batch, at: int, place: int) -> bool:
    """Put an entry before later ones; False, and it has not entered, if a sum goes out of bounds."""
    end, time, follow = kept.rows[row, END], batch.ints[at, TIME], kept.rows[row, FOLLOWED]
    for later in range(end, place, -1):
        for cell in range(1 + kept.layout[COLUMNS]):
            kept.arena[_cell(kept, row, later) + cell] = kept.arena[_cell(kept, row, later - 1) + cell]
    own = _cell(kept, row, place)
    kept.arena[own] = time
    for column in range(kept.layout[COLUMNS]):
        kept.floats[own + 1 + column] = batch.floats[at, column]
    newest = time if place == end else kept.rows[row, NEWEST]
    for width in range(kept.layout[WIDTHS] if follow > 0 else 0):
        if time <= newest - kept.layout[FIRST_WIDTH + width]:
            kept.follows[follow - 1, width] += 1
        elif not _add(kept, follow - 1, own, width, 1.0) and place == end:
            return False  # Before later ones it enters: sums are still exact, and the next event is unusual.
    kept.rows[row, END], kept.rows[row, NEWEST] = end + 1, newest
    if follow > 0 and place == end:
        _push(kept, row, place)
    elif follow > 0:
        _stack_anew(kept, row)
    return True


@inlined
def _look(kept: Kept, row: int, batch: Batch, at: int, place: int) -> bool:
    """Read the windows of an event that goes to `place`, entry by entry; False: a sum goes out of bounds."""
    start, line, is_bounded = kept.rows[row, BASE], kept.layout[COLUMNS], True
    for width in range(kept.layout[WIDTHS]):
        horizon = batch.ints[at, TIME] - kept.layout[FIRST_WIDTH + width]
        while start < place and _time(kept, row, start) <= horizon:
            start += 1
        _count(kept, row, batch, at, width, start, place)
        for column in range(kept.layout[COLUMNS]):
            first = most = least = batch.floats[at, column]
            high = _high(kept, column, first)
            low = first - high
            for entry in range(place - 1, start - 1, -1):
                first = _value(kept, row, entry, column)
                most, least = max(most, first), min(least, first)
                high += _high(kept, column, first)
                low += first - _high(kept, column, first)
                is_out = abs(high) > kept.split[column, HIGH_MAX] or abs(low) > kept.split[column, LOW_MAX]
                is_bounded = is_bounded and not (is_out and _of(kept, column, SUM) >= 0)
            batch.floats[at, line + TOTAL] = high + low
            batch.floats[at, line + MEAN] = (high + low) / (place + 1 - start)
            batch.floats[at, line + MAX], batch.floats[at, line + MIN] = most, least
            batch.floats[at, line + FIRST] = first
            line += READS
    return is_bounded


@inlined
def _count(kept: Kept, row: int, batch: Batch, at: int, width: int, start: int, own: int) -> None:
    """Tell how many entries a window holds, from `start` to the event's `own`, and how old the last is."""
    batch.ints[at, FIRST_COUNT + width] = own + 1 - start
    since = -1 if start == own else batch.ints[at, TIME] - _time(kept, row, own - 1)
    batch.ints[at, FIRST_COUNT + kept.layout[WIDTHS] + width] = since


@inlined
def _read(kept: Kept, row: int, batch: Batch, at: int) -> None:
    """Read the windows of a followed key, which end at its newest entry."""
    number, last, line = kept.rows[row, FOLLOWED] - 1, kept.rows[row, END] - 1, kept.layout[COLUMNS]
    for width in range(kept.layout[WIDTHS]):
        start = kept.follows[number, width]
        _count(kept, row, batch, at, width, start, last)
        for column in range(kept.layout[COLUMNS]):
            place = _of(kept, column, SUM) + 2 * width
            if place >= 2 * width:
                total = kept.sums[number, place] + kept.sums[number, place + 1]
                batch.floats[at, line + TOTAL] = total
                batch.floats[at, line + MEAN] = total / (last + 1 - start)
            for what, read in ((PEAKS, MAX), (DIPS, MIN)):
                if _of(kept, column, what) >= 0:
                    entry = _extreme(kept, row, _of(kept, column, what), start, width)
                    batch.floats[at, line + read] = _value(kept, row, entry, column)
            batch.floats[at, line + FIRST] = _value(kept, row, start, column)
            line += READS


@inlined
def _extreme(kept: Kept, row: int, stack: int, start: int, width: int) -> int:
    """Return the first entry of a stack that is inside a window; what is outside the longest one is over."""
    number = kept.rows[row, FOLLOWED] - 1
    cell, ends = 1 + kept.layout[COLUMNS] + stack, kept.layout[WIDTHS] + 2 * stack
    low, high = kept.follows[number, ends], kept.follows[number, ends + 1]
    while low < high:
        middle = (low + high) // 2
        if kept.arena[_cell(kept, row, middle) + cell] < start:
            low = middle + 1
        else:
            high = middle
    if width == 0:
        kept.follows[number, ends] = low
    return int(kept.arena[_cell(kept, row, low) + cell])


@inlined
def _push(kept: Kept, row: int, place: int) -> None:
    """Put an entry on the stacks of its columns, instead of those that it hides for ever."""
    number = kept.rows[row, FOLLOWED] - 1
    for column in range(kept.layout[COLUMNS]):
        value = _value(kept, row, place, column)
        for what in (PEAKS, DIPS):
            stack = _of(kept, column, what)
            cell, ends = 1 + kept.layout[COLUMNS] + stack, kept.layout[WIDTHS] + 2 * stack
            while stack >= 0 and kept.follows[number, ends + 1] > kept.follows[number, ends]:
                top = kept.arena[_cell(kept, row, kept.follows[number, ends + 1] - 1) + cell]
                shown = _value(kept, row, top, column)
                if (what == PEAKS and shown > value) or (what == DIPS and shown < value):
                    break
                kept.follows[number, ends + 1] -= 1
            if stack >= 0:
                kept.arena[_cell(kept, row, kept.follows[number, ends + 1]) + cell] = place
                kept.follows[number, ends + 1] += 1


@compiled
def _sum_anew(kept: Kept, row: int) -> None:
    """Build the sums of a followed key from its entries."""
    number = kept.rows[row, FOLLOWED] - 1
    kept.sums[number, :] = 0.0
    for width in range(kept.layout[WIDTHS]):
        for place in range(kept.follows[number, width], kept.rows[row, END]):
            _add(kept, number, _cell(kept, row, place), width, 1.0)


@compiled
def _stack_anew(kept: Kept, row: int) -> None:
    """Build the stacks of a followed key from its entries."""
    kept.follows[kept.rows[row, FOLLOWED] - 1, kept.layout[WIDTHS] :] = 0
    for place in range(kept.rows[row, BASE], kept.rows[row, END]):
        _push(kept, row, place)


@compiled
def _follow(kept: Kept, row: int) -> bool:
    """Begin to follow a key: all its windows hold all its entries, until they move on.  False: it is FULL."""
    number = kept.room[FREE_FOLLOW] - 1
    if number >= 0:
        kept.room[FREE_FOLLOW] = kept.follows[number, 0]
    elif kept.room[FOLLOWS] < len(kept.follows):
        number = kept.room[FOLLOWS]
        kept.room[FOLLOWS] += 1
    else:
        kept.room[WHY] = FULL
        return False
    kept.rows[row, FOLLOWED] = number + 1
    kept.follows[number, : kept.layout[WIDTHS]] = kept.rows[row, BASE]
    _sum_anew(kept, row)
    _stack_anew(kept, row)
    return True


@compiled
def _follow_no_more(kept: Kept, row: int) -> None:
    """Free what a followed key has."""
    kept.follows[kept.rows[row, FOLLOWED] - 1, 0] = kept.room[FREE_FOLLOW]
    kept.room[FREE_FOLLOW] = kept.rows[row, FOLLOWED]
    kept.rows[row, FOLLOWED] = 0


@compiled
def _make_room(kept: Kept, row: int) -> bool:
    """Make place for one more entry, in its block or in one of another size.  False: the arena is FULL."""
    start, size = kept.rows[row, START], kept.rows[row, ROOM]
    count = kept.rows[row, END] - kept.rows[row, BASE]
    if count < FEW_MAX // 2 and kept.rows[row, FOLLOWED] > 0:
        _follow_no_more(kept, row)
    if size > 0 and 4 * count <= 3 * size and (size <= FEW_MAX or 8 * count > size):
        _move(kept, row, start)
        return True
    wanted = 1
    while 1 << wanted <= count + count // 2:
        wanted += 1
    found = kept.room[FREE_BLOCKS + wanted] - 1
    if found >= 0:
        kept.room[FREE_BLOCKS + wanted] = kept.arena[found]
    else:
        found = kept.room[TOP]
        if found + (kept.layout[ENTRY] << wanted) > len(kept.arena):
            kept.room[WHY] = FULL
            return False
        kept.room[TOP] += kept.layout[ENTRY] << wanted
    _move(kept, row, found)
    kept.rows[row, ROOM] = 1 << wanted
    _free_block(kept, start, size)
    return True


@compiled
def _move(kept: Kept, row: int, start: int) -> None:
    """Let the entries that are not over, and their stacks, begin at `start`."""
    base, values, entry = kept.rows[row, BASE], kept.layout[COLUMNS], kept.layout[ENTRY]
    for place in range(base, kept.rows[row, END]):
        for cell in range(1 + values):
            kept.arena[start + (place - base) * entry + cell] = kept.arena[_cell(kept, row, place) + cell]
    if kept.rows[row, FOLLOWED] > 0:
        number = kept.rows[row, FOLLOWED] - 1
        kept.follows[number, : kept.layout[WIDTHS]] -= base
        for cell in range(1 + values, entry):
            ends = kept.layout[WIDTHS] + 2 * (cell - 1 - values)
            low, high = kept.follows[number, ends], kept.follows[number, ends + 1]
            while low < high and kept.arena[_cell(kept, row, low) + cell] < base:
                low += 1
            for place in range(low, high):
                moved = kept.arena[_cell(kept, row, place) + cell] - base
                kept.arena[start + (place - low) * entry + cell] = moved
            kept.follows[number, ends], kept.follows[number, ends + 1] = 0, high - low
    kept.rows[row, START], kept.rows[row, BASE], kept.rows[row, END] = start, 0, kept.rows[row, END] - base


@compiled
def _free_block(kept: Kept, start: int, size: int) -> None:
    """Put a block, if there is one, among the free ones of its size, each of which tells the next."""
    free = FREE_BLOCKS
    while 1 << (free - FREE_BLOCKS) < size:
        free += 1
    if size > 0:
        kept.arena[start], kept.room[free] = kept.room[free], start + 1


@compiled
def release(kept: Kept, rows: Ints) -> None:
    """Free all that the keys of these rows have but the rows themselves."""
    for row in rows:
        if kept.rows[row, FOLLOWED] > 0:
            _follow_no_more(kept, row)
        _free_block(kept, kept.rows[row, START], kept.rows[row, ROOM])
        kept.rows[row, :] = 0


@compiled
def refit(kept: Kept, split: Floats) -> bool:
    """Take another split, if all entries fit it."""
    before = kept.split.copy()
    kept.split[:] = split
    for row in range(len(kept.rows)):
        for place in range(kept.rows[row, BASE], kept.rows[row, END]):
            for column in range(kept.layout[COLUMNS]):
                if not _fits(kept, column, _value(kept, row, place, column)):
                    kept.split[:] = before
                    return False
    for row in range(len(kept.rows)):
        if kept.rows[row, FOLLOWED] > 0:
            _sum_anew(kept, row)
    return True
