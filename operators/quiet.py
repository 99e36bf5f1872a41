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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import fsum, sqrt
from struct import Struct
from typing import Any, Final

from operators.exact import Number, variance_of
from operators.kernels import Target, kinds_of, written_out

__all__ = ["QUIET_MAX", "QuietLogs"]

QUIET_MAX: Final = 7
"""Entries of a quiet key: from 8 on an index pays, and a packed log of more costs more to rewrite."""
ENTRY_BYTES: Final = 8
"""A time or a value."""
_CODES: Final[dict[type, str]] = {float: "d", int: "q"}


class QuietLogs:
    """Packed logs of one group, by key.

    >>> logs = QuietLogs(stride=1, entries_max=2)
    >>> logs.put("a", [1_000, 1_001], [2.5, 3.5]), logs.put("b", [1_000], [None])
    (True, False)
    >>> len(logs.packed["a"]), logs.times_and_values("a"), logs.newest("a")
    (32, (array('q', [1000, 1001]), [2.5, 3.5]), 1001)
    """

    def __init__(self, *, stride: int, entries_max: int) -> None:
        self.packed: dict[str, bytes] = {}
        self.entries_max = entries_max
        self.types: list[type] = []
        self.pack: Callable[..., bytes] = Struct("").pack
        self.unpack: list[Callable[[bytes], tuple[Any, ...]]] = []
        """How so many entries are read."""
        self._cells = stride + 1
        self._size = ENTRY_BYTES * (stride + 1)
        self._adopt([float] * stride)

    def accept(self, row: Iterable[Number | None]) -> bool:
        """Return whether a row has the types of all quiet ones; the first one may change them."""
        types = [type(value) for value in row]
        if types != self.types and not self.packed and all(kind in _CODES for kind in types):
            self._adopt(types)
        return types == self.types

    def _adopt(self, types: list[type]) -> None:
        self.types[:] = types
        entry = "q" + "".join([_CODES[kind] for kind in types])
        self.pack = Struct("<" + entry).pack
        self.unpack = [Struct("<" + entry * count).unpack for count in range(self.entries_max + 2)]

    def put(self, key: str, times: Sequence[int], values: Sequence[Number | None]) -> bool:
        """Keep a short log packed; return whether it fits."""
        count, stride = len(times), self._cells - 1
        if not 0 < count <= self.entries_max:
            return False
        rows = [tuple(values[place * stride : (place + 1) * stride]) for place in range(count)]
        if not self.accept(rows[0]) or any([type(v) for v in row] != self.types for row in rows):
            return False
        self.packed[key] = b"".join([self.pack(time, *row) for time, row in zip(times, rows, strict=True)])
        return True

    def times_and_values(self, key: str) -> tuple[array[int], list[Number | None]]:
        """Return the entries of `key` as a log has them; empty if there are none."""
        if (data := self.packed.get(key)) is None:
            return array("q"), []
        cells = list(self.unpack[len(data) // self._size](data))
        times = array("q", cells[:: self._cells])
        del cells[:: self._cells]
        return times, cells

    def newest(self, key: str) -> int:
        """Return the time of the newest entry of `key`, which has one."""
        data = self.packed[key]
        return int(self.unpack[len(data) // self._size](data)[-self._cells])

    def __len__(self) -> int:
        return len(self.packed)

    def __iter__(self) -> Iterator[str]:
        return iter(self.packed)

    def pop(self, key: str) -> bool:
        """Forget a key; return whether it was here."""
        return self.packed.pop(key, None) is not None

    def clear(self) -> None:
        """Forget all keys."""
        self.packed.clear()

    def calm(
        self, columns: Sequence[str | None], targets: Sequence[Target], names: Mapping[str, Any]
    ) -> Callable[..., bool]:
        """Return `calm(key, time, mark, row, out)`: enter the newest entry of a quiet key, read its windows.

        It returns False, and nothing is changed, for an event that does not fit: in its place, by its types,
        or because there are too many.  `names` has `changed` and `file` of the group's `Windows`.
        """
        cells = len(columns) + 1
        size = ENTRY_BYTES * cells
        row = "".join(f"v{n}, " for n in range(len(columns)))
        lines = [f"{row}= row"] if row else []
        if wrong := " or ".join([f"type(v{n}) is not types[{n}]" for n in range(len(columns))]):
            lines += [f"if ({wrong}) and not quiet.accept(row):", "    return False"]
        width_max = max(target.aggregate.window_ms for target in targets)
        lines += [
            "data = packed_get(key)",
            "if data is None:",
            "    file(key, time)",
            f"    packed[key] = quiet.pack(time, {row})",
            f"    cells, times, end = (time, {row}), (time,), 0",
            "else:",
            f"    data += quiet.pack(time, {row})",
            f"    end = len(data) // {size} - 1",
            "    cells = quiet.unpack[end + 1](data)",
            f"    times = cells[::{cells}]",
            "    if time < times[end - 1]:",
            "        return False",
            f"    horizon = mark - {width_max}",
            "    if times[0] <= horizon:",
            "        over = 1",
            "        while times[over] <= horizon:",
            "            over += 1",
            f"        data, cells = data[over * {size} :], cells[over * {cells} :]",
            "        times, end = times[over:], end - over",
            "    if end >= entries_max:",
            "        return False",
            "    packed[key] = data",
            "changed.add(key)",
            "start = 0",
        ]
        lines += [*_reading(columns, targets), "return True"]
        space = {
            **names,
            "entries_max": self.entries_max,
            "fsum": fsum,
            "packed": self.packed,
            "packed_get": self.packed.get,
            "quiet": self,
            "sqrt": sqrt,
            "types": self.types,
            "variance_of": variance_of,
        }
        return written_out("calm", "key, time, mark, row, out", lines, space)


def _reading(columns: Sequence[str | None], targets: Sequence[Target]) -> list[str]:
    """Return the lines that read all windows that end at the newest entry.

    Windows go from the longest to the shortest; one that starts where the last did has its values.
    """
    lines = _window(columns, targets)
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
    return lines


def _window(columns: Sequence[str | None], targets: Sequence[Target]) -> list[str]:
    """Return the lines that read what any window wants of the entries from `start` on.

    All are numbers; `[::-1]` lets the newest of equals win, as everywhere.
    """
    alone, several = ["if start == end:"], ["else:"]
    for n, column in enumerate(columns):
        kinds = kinds_of(targets, column)
        step = len(columns) + 1
        if not kinds:
            continue
        alone += [f"    last_{n} = v{n}"]
        several += [f"    found = cells[start * {step} + {n + 1}::{step}]", f"    last_{n} = v{n}"]
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
