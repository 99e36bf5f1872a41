"""Exponentially decayed counts, sums and means: every entry weighs half as much after each half-life.

Lives here: the decayed sums of one key.  Never here: waiting for the watermark (`keyed_state.py`).

    sum at t  =  sum over entries i at or before t of   x_i * 2 ** -((t - t_i) / half-life)

Strategy: sums are held as of the newest folded entry (the landmark), and moved to the next one by one
factor, at most 1, so nothing overflows however long the stream runs (Cormode et al., "Forward decay",
2009, with the landmark moved at every entry).  A move rounds a few times: relative to the decayed sum of |x|
the error stays below 2**-51 times the number of entries that still have weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from operators.language.window_kinds import Decay
from operators.windows.aggregates import Target
from operators.windows.keyed_state import Row

__all__ = ["DecayFold", "DecaySums", "measures_of"]

Measure = tuple[int, int | None]
"""A half-life, and the column that is summed; None where entries are counted."""


class DecaySums:
    """Decayed sums as of `time`: per measure the weights of its entries, and the weighted values."""

    __slots__ = ("sums", "time", "weights")

    def __init__(self, time: int, weights: list[float], sums: list[float]) -> None:
        self.time = time
        self.weights = weights
        self.sums = sums


class DecayFold:
    """Decayed aggregates of one group: a `Fold`.

    >>> from operators.language.by import by
    >>> from operators.language.window_kinds import decay
    >>> from operators.windows.keyed_state import Keyed
    >>> from operators.windows.keyed_state import ReorderBuffer
    >>> from topics.messages import Event
    >>> total = by("card").sum("amount", decay("10ms"))
    >>> kept = Keyed(ReorderBuffer(DecayFold(["amount"], [Target("sum", total)]), event_max=100))
    >>> for time in (0, 10, 30):
    ...     out = {}
    ...     kept.step("a", Event("id", time, "a", None, offset=0, watermark=time), (8.0,), out)
    ...     print(out)
    {'sum': 8.0}
    {'sum': 12.0}
    {'sum': 11.0}
    """

    def __init__(self, columns: Sequence[str | None], targets: Sequence[Target]) -> None:
        self.reach_ms = max(target.aggregate.window_ms for target in targets)
        self._measures = measures_of(targets, columns)
        self._outputs = [(target, self._measures.index(_measure(target, columns))) for target in targets]

    def new(self) -> DecaySums:
        """Return the sums of no entries."""
        return DecaySums(-1, [0.0] * len(self._measures), [0.0] * len(self._measures))

    def copy(self, decayed: DecaySums) -> DecaySums:
        """Return a copy of the sums."""
        return DecaySums(decayed.time, decayed.weights[:], decayed.sums[:])

    def add(self, decayed: DecaySums, time: int, row: Row) -> None:
        """Move the landmark to `time` and add one entry; one from before the landmark gets less weight."""
        age = max(0, decayed.time - time)
        gap = max(0, time - decayed.time)
        weights, sums = decayed.weights, decayed.sums
        for index, (half_life, offset) in enumerate(self._measures):
            if gap:
                factor = 2.0 ** (-gap / half_life)
                weights[index] *= factor
                sums[index] *= factor
            value = 0.0 if offset is None else row[offset]
            if value is not None:
                weight = 2.0 ** (-age / half_life) if age else 1.0
                weights[index] += weight
                sums[index] += value * weight
        decayed.time = max(decayed.time, time)

    def seen_late(self, decayed: DecaySums, _time: int) -> DecaySums:
        """Return the sums as they are: a late event sees them as of the landmark."""
        return decayed

    def write(self, decayed: DecaySums, time: int, out: dict[Any, Any], *, before: bool) -> None:
        """Write the values as of `time`, or as of the landmark where that is later."""
        age = max(0, time - decayed.time)
        for (name, aggregate, has_default), index in self._outputs:
            if aggregate.include_current is before:
                continue
            factor = 2.0 ** (-age / self._measures[index][0])
            if aggregate.function == "count":
                out[name] = decayed.weights[index] * factor
            elif aggregate.function == "sum":
                out[name] = decayed.sums[index] * factor
            elif decayed.weights[index] > 0.0:
                out[name] = decayed.sums[index] / decayed.weights[index]
            elif not has_default:
                out.pop(name, None)

    def dump(self, decayed: DecaySums) -> Any:
        """Return plain values."""
        return [decayed.time, decayed.weights, decayed.sums]

    def load(self, data: Any) -> DecaySums:
        """Return what `dump` gave."""
        time, weights, sums = data
        return DecaySums(time, weights, sums)


def measures_of(targets: Sequence[Target], columns: Sequence[str | None]) -> tuple[Measure, ...]:
    """Return the measures that are summed for `targets`."""
    return tuple(dict.fromkeys(_measure(target, columns) for target in targets))


def _measure(target: Target, columns: Sequence[str | None]) -> Measure:
    aggregate = target.aggregate
    offset = columns.index(aggregate.column) if aggregate.is_valued else None
    return aggregate.span.half_life_ms if isinstance(aggregate.span, Decay) else 0, offset
