"""The blocks that a stream is compared with, and how far blocks that were no alarm lay out.

Lives here: which blocks are the reference, which wait behind it, what is usual.  Never here: distances.

    reference  -- the first `size` blocks --.        .-- behind: the newest `HOLD`, not yet taken for usual
                                            v        v
    blocks:    | | | | | | | | | | | | | | ... | | | | | |
                    "training": stays; the distances of later blocks count as usual
                    "sliding", "hour_of_week": later blocks enter, the oldest leave

Memory: `size` blocks of the reference, HOLD behind it (as many as `size` while a verdict lasts), ACCEPTED_MAX
distances of each statistic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

import msgspec
import numpy as np
from msgspec import Struct

from operators.drift.budget import usual_of
from operators.drift.two_sample import Array
from operators.state import Changes, StateDelta, StateEntries

__all__ = ["HOLD", "Baseline"]

HOLD: Final = 7
"""Blocks that are not yet taken for usual: a shift that builds up must not become its own reference."""
ACCEPTED_MAX: Final = 400

Value = TypeVar("Value")


class _Order(Struct):
    size: int
    """Blocks of the reference when it is complete."""
    reference: list[int] = []
    behind: list[int] = []
    measured: list[list[float]] = []
    """Distances of the blocks behind the reference, in their order."""
    accepted: list[list[float]] = []
    """Distances of blocks that were usual, the newest last."""


class Baseline(Generic[Value]):
    """Blocks by number, in the order in which they came.

    >>> baseline = Baseline(2, slides=False, encode=bytes, decode=bytes)
    >>> for number in range(2):
    ...     baseline.begin(number, b"")
    >>> baseline.ready, baseline.reference
    (True, [0, 1])
    """

    def __init__(
        self, size: int, *, slides: bool, encode: Callable[[Value], bytes], decode: Callable[[bytes], Value]
    ) -> None:
        self._size, self._slides = size, slides
        self._encode, self._decode = encode, decode
        self._changes: Changes[int] = Changes()
        self.values: dict[int, Value] = {}
        self._order = _Order(self._size)
        self._order_changed = True
        self.revision = 0
        """Rises when what is usual changes; no part of the state."""

    @property
    def reference(self) -> list[int]:
        """Return the numbers of the reference's blocks."""
        return self._order.reference

    @property
    def behind(self) -> list[int]:
        """Return the numbers of later blocks that are not in the reference, the newest last."""
        return self._order.behind

    @property
    def ready(self) -> bool:
        """Return whether the reference is complete."""
        return len(self._order.reference) >= self._order.size

    def begin(self, number: int, value: Value) -> None:
        """Add a block to a reference that is not complete."""
        self._put(number, value)
        self._order.reference.append(number)
        self.revision += 1

    def complete_at(self, size: int) -> None:
        """Take the reference as it is for complete, if it has so many blocks."""
        if len(self._order.reference) >= size:
            self._order.size = len(self._order.reference)
            self._order_changed = True

    def follow(self, number: int, value: Value, measured: Sequence[float]) -> None:
        """Add a block that was compared."""
        self._put(number, value)
        self._order.behind.append(number)
        self._order.measured.append(list(measured))

    def settle(self, before: int | None = None) -> None:
        """Take the oldest blocks behind the reference for usual: all but the newest `HOLD`, or all before
        one."""
        order = self._order
        while order.behind and (len(order.behind) > HOLD if before is None else order.behind[0] < before):
            number, measured = order.behind.pop(0), order.measured.pop(0)
            self._order_changed = True
            self.revision += 1
            if self._slides:
                order.reference.append(number)
                self._drop(order.reference.pop(0))
            else:
                order.accepted = [*order.accepted[1 - ACCEPTED_MAX :], measured]
                self._drop(number)

    def discard(self) -> None:
        """Drop the blocks behind the reference: they were a shift, and count for nothing."""
        for number in self._order.behind:
            self._drop(number)
        self._order.behind, self._order.measured = [], []

    def adopt(self) -> None:
        """Make the blocks behind the reference the reference."""
        order = self._order
        for number in order.reference:
            self._drop(number)
        self._order = _Order(len(order.behind), order.behind)
        self.revision += 1
        self._order_changed = True

    def usual(self, left_out: Array) -> tuple[Array, Array]:
        """Return all usual distances, a statistic a row, rising, and how many blocks in a row count as one;
        `left_out` are the distances of the reference, a block a row."""
        accepted = self._order.accepted
        return usual_of(np.concatenate([left_out, np.array(accepted)]) if accepted else left_out)

    def _put(self, number: int, value: Value) -> None:
        self.values[number] = value
        self._changes.add(number)
        self._order_changed = True

    def _drop(self, number: int) -> None:
        del self.values[number]
        self._changes.remove(number)
        self._order_changed = True

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        entries = {str(number): self._encode(value) for number, value in self.values.items()}
        return {"order": msgspec.msgpack.encode(self._order), **entries}

    def delta(self) -> StateDelta:
        """Return the entries that changed since the last call."""
        delta = self._changes.delta(self.values, str, self._encode)
        if self._order_changed:
            self._order_changed = False
            delta["order"] = msgspec.msgpack.encode(self._order)
        return delta

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state."""
        self._order = msgspec.msgpack.decode(entries["order"], type=_Order)
        self.values = {int(name): self._decode(data) for name, data in entries.items() if name != "order"}
        self.revision += 1
        self._changes.clear()
        self._order_changed = False
