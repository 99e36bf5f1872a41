"""Runs of events through compiled logs: events to columns, and columns to feature dicts.

Lives here: the cut of a run into batches, and the text of what makes dicts.  Never here: the logs
(`columns.py`), compiled code, events that are not usual.

    events  ->  rows, times, values as columns  ->  one call  ->  counts, sums ... as columns  ->  dicts

Strategy: what costs is Python for each event, so keys, times and values are taken out of all events of a
batch at once, and all dicts are built by one comprehension, written out for the definition.  A watermark at
which keys are forgotten ends a batch, so that they go when they would go one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from operators import cells
from operators.calculation import NOTHING, Out, complete
from operators.fused import Output
from operators.kernels import Target, written_out
from topics.messages import Event

if TYPE_CHECKING:
    from operators.columns import ColumnLogs

__all__ = ["MANY_MIN", "BatchRun", "compile_write"]

MANY_MIN: Final = 32
"""Fewer events go one by one: to make arrays of them costs more than it saves."""
MANY_MAX: Final = 1_000
"""Events of one batch: what is read for them stays in the processor's cache."""
STOPS_MAX: Final = 8
"""A batch that stops for more than one event in so many costs more than events one by one."""
REST: Final = 64
"""Runs that go one by one after such a batch."""
_ODD: Final = -1
"""Instead of a row: an event that is not for compiled code."""
_READS: Final = {
    "sum": cells.TOTAL,
    "mean": cells.MEAN,
    "max": cells.MAX,
    "min": cells.MIN,
    "first": cells.FIRST,
}

Run = Callable[..., tuple[list[Out], int]]
"""`run(events, lookups, watermark, slow)`: see `fused.compile_run`."""


class BatchRun:
    """How a run of many events goes through compiled logs.

    `names` has `changed`, `idle`, `logs` and `windows` of the group's `Windows`, `few` does few events.
    """

    def __init__(self, logs: ColumnLogs, output: Output, names: Mapping[str, Any], few: Run) -> None:
        self._logs, self._output, self._few = logs, output, few
        self._changed: set[str] = names["changed"]
        self._others: Mapping[str, object] = names["logs"]
        self._idle, self._windows = names["idle"], names["windows"]
        self._columns = [attrgetter(name or "") for name in logs.columns]
        self._batch = logs.batch(MANY_MAX)
        self._rest = 0
        """Runs that still go one by one."""
        self._dicts = _compile_dicts(logs, output)
        self._gaps = [
            (target.name, _since(logs, target))
            for target in logs.targets
            if target.aggregate.kind == "since_last"
        ]

    def run(
        self,
        events: Sequence[Event],
        lookups: Sequence[Mapping[str, object]] | None,
        watermark: int,
        slow: Callable[[Event, Mapping[str, object]], Out],
    ) -> tuple[list[Out], int]:
        """Return the feature dicts of `events` and the watermark after them; `slow` does unusual ones."""
        if len(events) < MANY_MIN or self._rest:
            self._rest -= self._rest > 0
            return self._few(events, lookups, watermark, slow)
        rows: list[Out] = []
        stops = 0
        while (first := len(rows)) < len(events):
            if (mark := events[first].watermark) > watermark:
                watermark = mark
                if mark >= self._idle.due_ms:
                    self._windows.forget(mark)
            part = events[first : first + MANY_MAX]
            keys, values = self._gather(part, watermark)
            found = repeat(NOTHING, len(keys)) if lookups is None else lookups[first : first + len(keys)]
            looked_up, begin, end = list(found), 0, len(keys)
            while begin < end:
                done = self._logs.enter(self._batch, begin, end)
                if done > begin:
                    self._changed.update(keys[begin:done])
                    rows += self._read(begin, done, values, looked_up)
                if done < end:
                    stops += 1
                    rows.append(slow(part[done], looked_up[done]))
                    self._look_again(keys, done, end)
                    end = self._cut(done + 1, end, watermark)
                begin = done + 1
            watermark = max(watermark, int(self._batch.ints[:end, cells.MARK].max()))
        self._rest = REST if stops * STOPS_MAX > len(events) else 0
        return rows, watermark

    def _gather(self, events: Sequence[Event], watermark: int) -> tuple[list[str], Sequence[Any]]:
        """Fill the batch with events, up to where keys are forgotten; return their keys, and values."""
        values = [event.value for event in events]
        keys = list(map(self._output.key_of, values))
        self._batch.ints[: len(keys), cells.TIME] = [event.event_time for event in events]
        self._batch.ints[: len(keys), cells.MARK] = [event.watermark for event in events]
        size = self._cut(1, len(keys), watermark)
        lates = [event.late for event in events]
        odd = {place for place, late in enumerate(lates) if late} if True in lates else set()
        for column, get in enumerate(self._columns):
            taken = list(map(get, values))
            if set(map(type, taken)) != {float}:
                wrong = [place for place, value in enumerate(taken) if type(value) is not float]
                odd.update(wrong)
                for place in wrong:
                    taken[place] = 0.0
            self._batch.floats[: len(taken), column] = taken
        rows: Sequence[int | None] = list(map(self._logs.rows.get, keys[:size]))
        if odd or None in rows:
            rows = self._find_rows(rows, keys, odd, watermark)
        self._batch.ints[: len(rows), cells.ROW] = np.array(rows, np.int64)
        return keys[: len(rows)], values

    def _cut(self, begin: int, end: int, watermark: int) -> int:
        """Return before how many events keys are forgotten, `end` for none from `begin` on."""
        marks, due_ms = self._batch.ints[begin:end, cells.MARK], self._idle.due_ms
        if begin == end or marks.max() < due_ms:
            return end
        after = ((marks >= due_ms) & (marks > watermark)).nonzero()[0]
        return begin + int(after[0]) if len(after) else end

    def _find_rows(
        self, rows: Sequence[int | None], keys: Sequence[str], odd: set[int], watermark: int
    ) -> list[int]:
        """Return rows with those of new keys, without odd events, up to where keys are forgotten."""
        found, end, idle, known = list[int](), len(rows), self._idle, self._logs.rows
        left_out = {keys[place] for place in odd if place < end and rows[place] is None}
        for place, (key, row) in enumerate(zip(keys, rows, strict=False)):
            if place == end:
                break
            if place in odd or (row is None and (key in left_out or key in self._others)):
                found.append(_ODD)
            elif row is not None or key in known:
                found.append(known[key])
            else:
                due_ms = idle.due_ms
                idle.file(key, self._batch.ints.item(place, cells.TIME))
                found.append(self._logs.new(key))
                if idle.due_ms < due_ms:
                    end = self._cut(place + 1, end, watermark)
        return found

    def _look_again(self, keys: Sequence[str], done: int, end: int) -> None:
        """Look up the row of a key again for its later events: it may have left these logs, or come back."""
        key, rows = keys[done], self._batch.ints[:, cells.ROW]
        row = self._logs.rows.get(key, _ODD)
        for place in range(done + 1, end):
            if keys[place] == key and rows[place] != _ODD:
                rows[place] = row

    def _read(
        self, begin: int, end: int, values: Sequence[Any], looked_up: Sequence[Mapping[str, object]]
    ) -> list[Out]:
        """Return the dicts of the events that were entered."""
        ints, output = self._batch.ints[begin:end], self._output
        rows = self._dicts(ints, self._batch.floats[begin:end])
        for name, line in self._gaps:
            default = output.template.get(name)
            for place in (ints[:, line] < 0).nonzero()[0].tolist():
                if default is None:
                    del rows[place][name]
                else:
                    rows[place][name] = default
        if output.later:
            for out, value, found in zip(rows, values[begin:end], looked_up[begin:end], strict=True):
                complete(out, value, found, output.later, output.inner)
        return rows


def compile_write(logs: ColumnLogs) -> Callable[..., None]:
    """Return `write(out, ints, floats)`, which writes what was read for one event."""
    lines = []
    for target in logs.targets:
        text = _text(logs, target, "ints[{}]", "floats[{}]")
        if target.aggregate.kind == "since_last":
            lines += [f"if {text} >= 0:", f"    out[{target.name!r}] = {text}"]
            lines += [] if target.has_default else ["else:", f"    out.pop({target.name!r}, None)"]
        else:
            lines += [f"out[{target.name!r}] = {text}"]
    return written_out("write", "out, ints, floats", lines, {})


def _compile_dicts(logs: ColumnLogs, output: Output) -> Callable[..., list[Out]]:
    """Return `dicts(ints, floats)`: the dicts of some events, without what comes later."""
    texts = {target.name: _text(logs, target, "i{}", "f{}") for target in logs.targets}
    texts |= {name: f"f{logs.columns.index(field)}" for name, field in output.fields.items()}
    shown = [f"{name!r}: {texts.get(name, f'default{n}')}" for n, name in enumerate(output.template)]
    shown += [f"{name!r}: {texts[name]}" for name in output.inner]
    names = list(dict.fromkeys(text.split()[0] for text in texts.values()))
    taken = [f"{'ints' if name[0] == 'i' else 'floats'}[:, {name[1:]}].tolist()" for name in names]
    lines = [f"return [{{{', '.join(shown)}}} for {', '.join(names)}, in zip({', '.join(taken)})]"]
    defaults = {f"default{n}": default for n, default in enumerate(output.template.values())}
    return written_out("dicts", "ints, floats", lines, defaults)


def _text(logs: ColumnLogs, target: Target, whole: str, number: str) -> str:
    """Return the text of a target's value, from those of a line of whole numbers and of a line of floats."""
    aggregate = target.aggregate
    width = logs.widths_ms.index(aggregate.window_ms)
    match aggregate.kind:
        case "count":
            return whole.format(cells.FIRST_COUNT + width)
        case "rate":
            return f"{whole.format(cells.FIRST_COUNT + width)} * 1000 / {aggregate.window_ms}"
        case "since_last":
            return whole.format(_since(logs, target))
    column, columns = logs.columns.index(aggregate.column), len(logs.columns)
    if aggregate.kind == "last":
        return number.format(column)
    line = columns + (width * columns + column) * cells.READS
    return number.format(line + _READS[aggregate.kind])


def _since(logs: ColumnLogs, target: Target) -> int:
    """Return the line of how old the entry before is in a target's window."""
    widths = logs.widths_ms
    return cells.FIRST_COUNT + len(widths) + widths.index(target.aggregate.window_ms)
