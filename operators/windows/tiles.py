"""Windows made of tiles: memory that does not grow with the rate of events.

Lives here: the tiles of one key, and the windows that are put together from them.  Never here: what a tile
remembers (`summaries.py`), keys (`keyed_state.py`).

    tiles of 10m           |-----|-----|-----|-----|--x       an event at x
    tiled("30m", "10m")       (.)|-----|-----|-----|--]       30m back is at (.): from the tile's begin on
    tumbling("10m")                                |--]       the last tile alone
    watermark                                   |             entries after it are kept one by one as well

The head is exact: the window ends at the event's own time, out of order or not.  The tail begins at a
multiple of the step, so a window covers `width` to `width + step`: at its begin up to a step more.
A tumbling window has no such tail and is exact.

Strategy: entries wait until the watermark passes them, then go into their tile and are gone.  For
each window a summary of all that is in it follows every entry.  When the window's tail moves, once a step,
the tiles that leave are taken out of it, or it is put together anew where that cannot be (an extreme left).
Summaries are exact, so all ways agree to the bit.

Cost: an event is added to each window of its group; once a step up to `width / step` tiles are merged.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from operators.language.window_kinds import Span, Tiled
from operators.windows.aggregates import Target
from operators.windows.keyed_state import Row
from operators.windows.summaries import Summary, layout_of, value_of

__all__ = ["KeyTiles", "Tiles"]

LEAVING_MAX: Final = 8
"""A window that leaves more tiles at once is summarised anew."""


class KeyTiles:
    """The state of one key: tiles by number, entries that the watermark has not passed, merged windows."""

    __slots__ = ("heads", "newest", "rows", "tiles", "times")

    def __init__(self, windows: int) -> None:
        self.tiles: dict[int, Summary] = {}
        self.times: list[int] = []
        self.rows: list[Row] = []
        self.newest = -1
        self.heads: list[tuple[int, Summary] | None] = [None] * windows
        """Derived, per window: its first tile, and all entries from there on."""


class _Window(NamedTuple):
    """One width, and what is read from it."""

    width_ms: int
    """0 for the tile alone."""
    before: list[_Output]
    after: list[_Output]


class _Output(NamedTuple):
    name: str | int
    value: Callable[[Summary], Any]
    has_default: bool


class Tiles:
    """A `Kept` that holds a group's entries as tiles of `step_ms`.

    `event_max` bounds the entries that wait for the watermark: the oldest go into their tile before,
    counted as having made room; an event out of order may then see them though they came later.

    >>> from operators.language.by import by
    >>> from operators.language.window_kinds import tiled
    >>> from operators.windows.keyed_state import Keyed
    >>> from topics.messages import Event
    >>> total = by("card").sum("amount", tiled("20ms", step="10ms"))
    >>> kept = Keyed(Tiles(["amount"], [Target("sum", total)], step_ms=10, event_max=100))
    >>> for time in (5, 15, 25, 35):
    ...     out = {}
    ...     kept.step("alice", Event("id", time, "alice", None, offset=0, watermark=time), (1.0,), out)
    ...     print(out)
    {'sum': 1.0}
    {'sum': 2.0}
    {'sum': 3.0}
    {'sum': 3.0}
    """

    def __init__(
        self, columns: Sequence[str | None], targets: Sequence[Target], *, step_ms: int, event_max: int
    ) -> None:
        self._step_ms = step_ms
        self._event_max = event_max
        self._layout = layout = layout_of(targets, columns)
        self.reach_ms = max(target.aggregate.window_ms for target in targets)
        self._windows: list[_Window] = []
        for span in dict.fromkeys(target.aggregate.span for target in targets):
            window = _Window(_width_ms(span), [], [])
            for target in targets:
                if target.aggregate.span == span:
                    output = _Output(
                        target.name, value_of(target.aggregate, layout, columns), target.has_default
                    )
                    (window.after if target.aggregate.include_current else window.before).append(output)
            self._windows.append(window)
        self._width_max_ms = max(window.width_ms for window in self._windows)

    def new(self) -> KeyTiles:
        """Return a key without entries."""
        return KeyTiles(len(self._windows))

    def enter(self, state: KeyTiles, time: int, watermark: int, row: Row) -> int:
        """Add one entry to those that wait or to its tile; move the entries that the watermark has passed."""
        layout, times, rows = self._layout, state.times, state.rows
        if time >= state.newest:
            for number in range(len(self._windows)):
                self._move_on(state, number, time)
        state.newest = max(state.newest, time)
        tile = time // self._step_ms
        for head in state.heads:
            if head is not None and tile >= head[0]:
                head[1].add(layout, time, row)
        if time <= watermark:
            self._settle(state, time, watermark, row)
        elif not times or times[-1] <= time:
            times.append(time)
            rows.append(row)
        else:
            index = bisect_right(times, time)
            times.insert(index, time)
            rows.insert(index, row)
        passed = bisect_right(times, watermark)
        crowded = max(0, len(times) - passed - self._event_max)
        if passed + crowded:
            for old in range(passed + crowded):
                self._settle(state, times[old], watermark, rows[old])
            del times[: passed + crowded], rows[: passed + crowded]
        return crowded

    def _settle(self, state: KeyTiles, time: int, watermark: int, row: Row) -> None:
        """Add one entry to its tile; where the tile is new, forget old ones."""
        tile = time // self._step_ms
        if (summary := state.tiles.get(tile)) is None:
            first = self._first_tile(watermark)
            for old in [number for number in state.tiles if number < first]:
                del state.tiles[old]
                state.heads = [head if head is not None and head[0] > old else None for head in state.heads]
            summary = state.tiles[tile] = Summary(self._layout)
        summary.add(self._layout, time, row)

    def _first_tile(self, watermark: int) -> int:
        """Return the first tile that an event in time may look at."""
        return (watermark - self._width_max_ms) // self._step_ms

    def look(self, state: KeyTiles, time: int, out: dict[Any, Any]) -> None:
        """Write what leaves the event itself out."""
        for number, window in enumerate(self._windows):
            if window.before:
                _write(window.before, self._summary(state, number, time), out)

    def read(self, state: KeyTiles, time: int, out: dict[Any, Any]) -> None:
        """Write all other windows that end at `time`."""
        for number, window in enumerate(self._windows):
            if window.after:
                _write(window.after, self._summary(state, number, time), out)

    def _summary(self, state: KeyTiles, number: int, time: int) -> Summary:
        """Return the summary of one window at `time`."""
        first = (time - self._windows[number].width_ms) // self._step_ms
        if time < state.newest:
            return self._together(state, first, time)
        self._move_on(state, number, time)
        head = state.heads[number]
        if head is None:
            head = state.heads[number] = (first, self._together(state, first, time))
        return head[1]

    def _move_on(self, state: KeyTiles, number: int, time: int) -> None:
        """Remove the tiles from a window's summary that it has left at `time`, or drop the summary."""
        first = (time - self._windows[number].width_ms) // self._step_ms
        head = state.heads[number]
        if head is None or head[0] == first:
            return
        start, summary = head
        state.heads[number] = None
        if not start < first <= start + LEAVING_MAX or (
            state.times and state.times[0] < first * self._step_ms
        ):
            return
        for tile in range(start, first):
            left = state.tiles.get(tile)
            if left is not None and not summary.take_out(self._layout, left):
                return
        state.heads[number] = (first, summary)

    def _together(self, state: KeyTiles, first: int, time: int) -> Summary:
        """Return a new summary of the entries from tile `first` on up to `time`."""
        layout, step_ms = self._layout, self._step_ms
        summary, last = Summary(layout), time // step_ms
        for tile, held in state.tiles.items():
            if first <= tile <= last:
                summary.merge(layout, held)
        for at, row in zip(state.times, state.rows, strict=True):
            if first * step_ms <= at <= time:
                summary.add(layout, at, row)
        return summary

    def seen_late(self, state: KeyTiles, time: int, watermark: int) -> KeyTiles:
        """Return a copy with the tiles up to that of `time`, whole, as far as they are kept."""
        copy, waiting = self.new(), bisect_right(state.times, time)
        copy.times, copy.rows = state.times[:waiting], state.rows[:waiting]
        first, last = self._first_tile(watermark), time // self._step_ms
        copy.tiles = {
            tile: summary.copy(self._layout) for tile, summary in state.tiles.items() if first <= tile <= last
        }
        return copy

    def newest(self, state: KeyTiles) -> int:
        """Return the time of the newest entry."""
        return state.newest

    def dump(self, state: KeyTiles) -> bytes:
        """Return tiles and waiting entries."""
        tiles = {tile: summary.dump(self._layout) for tile, summary in state.tiles.items()}
        return _pack((state.newest, tiles, state.times, state.rows))

    def load(self, data: bytes) -> KeyTiles:
        """Return the state that `dump` gave."""
        state = self.new()
        state.newest, tiles, state.times, state.rows = _decode(data)
        state.tiles = {tile: Summary.load(self._layout, summary) for tile, summary in tiles.items()}
        return state


_pack = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[int, dict[int, list[Any]], list[int], list[tuple[Any, ...]]]).decode


def _width_ms(span: Span | None) -> int:
    return span.width_ms if isinstance(span, Tiled) else 0


def _write(outputs: Sequence[_Output], summary: Summary, out: dict[Any, Any]) -> None:
    for name, value, has_default in outputs:
        if (found := value(summary)) is not None:
            out[name] = found
        elif not has_default:
            out.pop(name, None)
