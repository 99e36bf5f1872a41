"""How complete labels are: which share of the answered events has its label at a given age.

Lives here: the counts by age, in blocks of event time, until the watermark has passed that age.  Never here:
what a label meets (`join.py`), what is made of the counts (`engine/metrics.py`).

    answered at       |-- block --|
    watermark                                    w
    age 1/4 of wait               |------|          counted: `aged`, and of them `labelled` within that age
    age 1/2                       |-------------|   not yet: the block's last events are not so old

An event counts as labelled at an age by the label's own time, however late the label is read.  A label is one
that came: no implicit one, no vote.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import Struct

from operators.state import StateDelta, StateEntries, WholeState

__all__ = ["AGES", "Completeness"]

AGES: Final = (0.25, 0.5, 0.75, 1.0)
"""Ages in parts of the wait."""
BLOCKS: Final = 16
"""Blocks of one wait."""
GRACE_BLOCKS: Final = 48
"""Blocks that `grace` has at most: so many more are open."""
_NEVER: Final = -(1 << 62)

_Row = list[int]
"""Answers of a block, and those labelled within each age."""


class _State(Struct, array_like=True):
    blocks: dict[int, _Row]
    passed: list[int]
    """The newest block that is counted, by age."""
    aged: list[int]
    labelled: list[int]


class Completeness(WholeState):
    """The labelled share by age of one partition's answers.

    `counts` gets `aged` and `labelled` by age as they grow; it is no part of the state.

    >>> completeness = Completeness(wait_ms=1_600, grace_ms=0)
    >>> for at in (0, 50, 90):
    ...     completeness.opened(at)
    >>> completeness.labelled((50, 300))
    >>> completeness.labelled((90, 1_000))
    >>> completeness.passed(2_000)
    >>> [(row["age_ms"], row["aged"], row["labelled"]) for row in completeness.report()]
    [(400, 3, 1), (800, 3, 1), (1200, 3, 2), (1600, 3, 2)]
    """

    def __init__(self, wait_ms: int, grace_ms: int, counts: Counter[tuple[str, str]] | None = None) -> None:
        self.counts: Counter[tuple[str, str]] = Counter() if counts is None else counts
        self._opened: list[int] = []
        self._joined: list[tuple[int, int]] = []
        self.opened: Callable[[int], None] = self._opened.append
        """Take the time of an answered event that waits for its label; counted when somebody looks."""
        self.labelled: Callable[[tuple[int, int]], None] = self._joined.append
        """Take event time and label time of the first label that came for an event that was opened."""
        self._ages_ms = [int(wait_ms * age) for age in AGES]
        self._block_ms = max(1, wait_ms // BLOCKS, grace_ms // GRACE_BLOCKS)
        self._clear()

    def _clear(self) -> None:
        self._blocks: dict[int, _Row] = {}
        self._passed = [_NEVER] * len(AGES)
        self._aged, self._labelled = [0] * len(AGES), [0] * len(AGES)
        self._due = _NEVER
        """The watermark, ms, from which on a block is old enough for some age."""

    def _fold(self) -> None:
        """Count what was taken since the last time."""
        if self._opened or self._joined:
            self._dirty = True
            for event_time in self._opened:
                self._open(event_time)
            for event_time, label_time in self._joined:
                self._label(event_time, label_time)
            self._opened.clear()
            self._joined.clear()

    def _open(self, event_time: int) -> None:
        block = event_time // self._block_ms
        for age, passed in enumerate(self._passed):
            if block <= passed:
                self._count_aged(age, 1)
        if block > self._passed[-1]:
            self._row(block)[0] += 1

    def _label(self, event_time: int, label_time: int) -> None:
        block, delay = event_time // self._block_ms, label_time - event_time
        for age, (age_ms, passed) in enumerate(zip(self._ages_ms, self._passed, strict=True)):
            if delay > age_ms:
                continue
            if block <= passed:
                self._count_labelled(age, 1)
            if block > self._passed[-1]:  # of an age that is counted already, too: runs may be cut anywhere
                self._row(block)[age + 1] += 1

    def passed(self, watermark: int) -> None:
        """Count the blocks that the watermark has left behind by an age."""
        self._fold()
        if watermark < self._due:
            return
        self._dirty = True
        for age, age_ms in enumerate(self._ages_ms):
            last = (watermark - age_ms) // self._block_ms - 1
            for block in sorted(block for block in self._blocks if self._passed[age] < block <= last):
                row = self._blocks[block]
                self._count_aged(age, row[0])
                self._count_labelled(age, row[age + 1])
                if age == len(AGES) - 1:
                    del self._blocks[block]
            self._passed[age] = max(self._passed[age], last)
        self._look()

    def _look(self) -> None:
        """Set when the next block is old enough for some age, whether anything is in it or not."""
        self._due = min(
            (passed + 2) * self._block_ms + age_ms
            for passed, age_ms in zip(self._passed, self._ages_ms, strict=True)
        )

    def _row(self, block: int) -> _Row:
        return self._blocks.setdefault(block, [0] * (1 + len(AGES)))

    def _count_aged(self, age: int, count: int) -> None:
        self._aged[age] += count
        self.counts["aged", f"{AGES[age]:g}"] += count

    def _count_labelled(self, age: int, count: int) -> None:
        self._labelled[age] += count
        self.counts["aged_labelled", f"{AGES[age]:g}"] += count

    # -- what is told -----------------------------------------------------------------------------

    def report(self) -> list[dict[str, float | int | None]]:
        """Return for each age how many answers are so old, how many had a label by then, and the share."""
        self._fold()
        return [
            {
                "age": age,
                "age_ms": age_ms,
                "aged": aged,
                "labelled": labelled,
                "share": round(labelled / aged, 6) if aged else None,
            }
            for age, age_ms, aged, labelled in zip(
                AGES, self._ages_ms, self._aged, self._labelled, strict=True
            )
        ]

    # -- state ------------------------------------------------------------------------------------

    def delta(self) -> StateDelta:
        """Return the whole state if it changed since the last call."""
        self._fold()
        return super().delta()

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        self._fold()
        state = _State(dict(sorted(self._blocks.items())), self._passed, self._aged, self._labelled)
        return {"all": msgspec.msgpack.encode(state)}

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state; without an entry, as in checkpoints of earlier versions, it begins."""
        self._opened.clear()
        self._joined.clear()
        self._clear()
        if "all" in entries:
            state = msgspec.msgpack.decode(entries["all"], type=_State)
            self._blocks, self._passed = state.blocks, state.passed
            self._aged, self._labelled = state.aged, state.labelled
            if self._passed[0] != _NEVER:
                self._look()
        self._dirty = False
