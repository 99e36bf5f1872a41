"""Keys with few entries: one bytes object each, read by a function written out for the group.

Lives here: the packed form of a short log, and how an event that comes in order is added and its
windows read.  Never here: which keys are quiet, any other event (`windows.py`).

Strategy: most keys of a large population have a handful of entries, for which lists and objects
weigh ten times what they hold.  An entry is its time and its row as 8 bytes each; 100,000 keys are
100,000 objects that the garbage collector need not visit.  The types of a group's first row
are those of all quiet rows, so that values come back as what they were.

    key -> time value | time value | time value        at most QUIET_MAX entries, the oldest first
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from math import fsum, sqrt
from struct import Struct
from typing import Any, Final

from operators.exact import Number, variance_of
from operators.kernels import Target, kinds_of

__all__ = ["QUIET_MAX", "QuietLogs", "compile_read"]

QUIET_MAX: Final = 7
"""Entries of a quiet key: from 8 on an index pays, and a packed log of more costs more to rewrite."""
_CODES: Final[dict[type, str]] = {float: "d", int: "q"}


class QuietLogs:
    """Packed logs of one group, by key.

    >>> logs = QuietLogs(stride=1, entries_max=2)
    >>> logs.add("a", 1_000, 0, (2.5,)), logs.add("a", 1_001, 1_000, (3.5,))
    ((1000, 2.5), (1001, 3.5))
    >>> logs.add("a", 1_002, 1_000, (None,)), logs.times_and_values("a")
    (None, (array('q', [1001]), [3.5]))
    """

    def __init__(self, *, stride: int, entries_max: int) -> None:
        self.packed: dict[str, bytes] = {}
        self._cells = stride + 1
        self._size = 8 * (stride + 1)
        self._entries_max = entries_max
        self._types: tuple[type, ...] | None = None
        self._pack: Callable[..., bytes] = Struct("").pack
        self._unpack: list[Callable[[bytes], tuple[Any, ...]]] = []

    def add(
        self, key: str, time: int, horizon: int, row: tuple[Number | None, ...]
    ) -> tuple[Any, ...] | None:
        """Add an entry behind all others, and forget those at or before `horizon`; return all cells.

        None, and nothing is changed: it does not fit, in its place or by its types.
        """
        if tuple(map(type, row)) != self._types and not self._accept(row):
            return None
        data = self.packed.get(key, b"") + self._pack(time, *row)
        count = len(data) // self._size
        cells = self._unpack[count](data)
        if count > 1:
            if time < cells[-2 * self._cells]:
                return None
            if cells[0] <= horizon:
                times = cells[:: self._cells]
                over = sum([old <= horizon for old in times])
                cells, data = cells[over * self._cells :], data[over * self._size :]
                count -= over
            if count > self._entries_max:
                return None
        self.packed[key] = data
        return cells

    def put(self, key: str, times: Sequence[int], values: Sequence[Number | None]) -> bool:
        """Keep a short log packed; return whether it fits."""
        count, stride = len(times), self._cells - 1
        if not 0 < count <= self._entries_max:
            return False
        rows = [tuple(values[place * stride : (place + 1) * stride]) for place in range(count)]
        if not all(tuple(map(type, row)) == self._types or self._accept(row) for row in rows):
            return False
        self.packed[key] = b"".join([self._pack(time, *row) for time, row in zip(times, rows, strict=True)])
        return True

    def times_and_values(self, key: str) -> tuple[array[int], list[Number | None]]:
        """Return the entries of `key` as a log has them; empty if there are none."""
        if (data := self.packed.get(key)) is None:
            return array("q"), []
        cells = list(self._unpack[len(data) // self._size](data))
        times = array("q", cells[:: self._cells])
        del cells[:: self._cells]
        return times, cells

    def newest(self, key: str) -> int:
        """Return the time of the newest entry of `key`, which has one."""
        data = self.packed[key]
        return int(self._unpack[len(data) // self._size](data)[-self._cells])

    def _accept(self, row: Iterable[Number | None]) -> bool:
        """Take the types of the first row for those of all."""
        types = tuple(map(type, row))
        if self._types is not None or not all(kind in _CODES for kind in types):
            return False
        self._types = types
        entry = "q" + "".join([_CODES[kind] for kind in types])
        self._pack = Struct("<" + entry).pack
        self._unpack = [Struct("<" + entry * count).unpack for count in range(self._entries_max + 2)]
        return True


def compile_read(columns: Sequence[str | None], targets: Sequence[Target]) -> Callable[..., None]:
    """Return `read(cells, time, out)`, which writes the windows that end at the newest entry.

    Windows go from the longest to the shortest; one that starts where the last did has its values.
    """
    stride = len(columns)
    lines = [f"times = cells[::{stride + 1}]", "start, end = 0, len(times) - 1", *_window(columns, targets)]
    for width in sorted({target.aggregate.window_ms for target in targets}, reverse=True):
        lines += [f"horizon = time - {width}", "if times[start] <= horizon:", "    start += 1"]
        lines += ["    while times[start] <= horizon:", "        start += 1"]
        lines += ["    " + line for line in _window(columns, targets)]
        for name, aggregate, has_default in targets:
            if aggregate.window_ms != width:
                continue
            if aggregate.kind == "since_last":
                lines += ["if end > start:", f"    out[{name!r}] = time - times[end - 1]"]
                lines += [] if has_default else ["else:", f"    out.pop({name!r}, None)"]
            else:
                texts = {"count": "end + 1 - start", "rate": f"(end + 1 - start) * 1000 / {width}"}
                column = 0 if aggregate.kind in texts else columns.index(aggregate.column)
                lines += [f"out[{name!r}] = {texts.get(aggregate.kind, f'{aggregate.kind}_{column}')}"]
    text = "def read(cells, time, out):\n" + "\n".join("    " + line for line in lines)
    space: dict[str, Any] = {"fsum": fsum, "sqrt": sqrt, "variance_of": variance_of}
    exec(text, space)  # noqa: S102  the text holds reprs of names, and numbers
    return space["read"]  # type: ignore[no-any-return]


def _window(columns: Sequence[str | None], targets: Sequence[Target]) -> list[str]:
    """Return the lines that read what any window wants of the entries from `start` on.

    All are numbers; `[::-1]` lets the newest of equals win, as everywhere.
    """
    alone, several = ["if start == end:"], ["else:"]
    for n, column in enumerate(columns):
        kinds = kinds_of(targets, column)
        cut = f"{n + 1}" if len(columns) else ""
        step = len(columns) + 1
        if not kinds:
            continue
        alone += [f"    last_{n} = cells[{n - step + 1}]"]
        several += [f"    found = cells[start * {step} + {cut}::{step}]", f"    last_{n} = found[-1]"]
        one = {"min": f"last_{n}", "max": f"last_{n}", "first": f"last_{n}", "var": "0.0", "std": "0.0"}
        more = {"min": "min(found[::-1])", "max": "max(found[::-1])", "first": "found[0]"}
        more |= {"var": "variance_of(found)", "std": "sqrt(variance_of(found))"}
        if kinds & {"sum", "mean"}:
            alone += [f"    sum_{n} = mean_{n} = last_{n} + 0.0"]
            several += [f"    sum_{n} = fsum(found)", f"    mean_{n} = sum_{n} / len(found)"]
        for kind in sorted(kinds & one.keys()):
            alone += [f"    {kind}_{n} = {one[kind]}"]
            several += [f"    {kind}_{n} = {more[kind]}"]
    return [*alone, *several] if len(alone) > 1 else []
