"""The scorer's half of the estimate: scores of all answers, labelled or not, by bin and block of event time.

Lives here: which block and which bin an answer is of, when a block is closed.  Never here: what its scores
let expect (`estimate.py`), how a block comes into the log (`engine/machines/blocks.py`).

    answered rows, by event time      |-- block --|
    the watermark passes its end                  v   its bins go into one record; later rows are counted

Sums are added row by row, so they have the same bits however rows are cut into batches.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from operators.state import StateEntries, WholeState
from topics.messages import LabelValue, Score, ScoreBin

__all__ = ["SCORED_BLOCKS_MAX", "SCORE_BINS", "AnsweredScores"]

SCORE_BINS: Final = 100
"""Bins of the score, of equal width: as fine as an estimate can be told from one by rows."""
SCORED_BLOCKS_MAX: Final = 64
"""Blocks that are open at once; where there are more, the oldest is closed before its time."""
ENTRY: Final = "answered"

_Bin = tuple[int, bool]
"""Number of the bin, and whether the answer is true; of several classes it always is."""


class _State(msgspec.Struct, array_like=True):
    closed: int | None = None
    """Number of the newest block that is closed; None before the first."""
    late: int = 0
    open: dict[int, list[ScoreBin]] = {}


class AnsweredScores(WholeState):
    """The bins of one partition's answers.

    >>> scores = AnsweredScores(block_ms=1_000)
    >>> scores.take([(5, 0.905, True), (20, 0.905, True), (30, {"a": 0.2, "b": 0.7}, "b"), (40, None, False)])
    >>> scores.close(watermark=999)
    {}
    >>> for one in scores.close(watermark=1_000)[0]:
    ...     print(one.bin, one.label, one.rows, one.score)
    70 True 1 0.7
    90 True 2 1.81
    """

    def __init__(self, block_ms: int) -> None:
        self._block_ms = block_ms
        self.late = 0
        """Answers whose block was closed, since the last block."""
        self._closed: int | None = None
        self._open: dict[int, dict[_Bin, tuple[int, float, float]]] = {}

    @property
    def next_deadline(self) -> int | None:
        """Return the watermark at which the oldest open block is closed, ms; None where none is open."""
        return (min(self._open) + 1) * self._block_ms if self._open else None

    def take(self, answers: Iterable[tuple[int, Score, LabelValue | None]]) -> None:
        """Take event time, score and label of answers, in the order of their events."""
        self._dirty = True
        block_ms, closed = self._block_ms, self._closed
        for time, score, label in answers:
            number = time // block_ms
            if closed is not None and number <= closed:
                self.late += 1
                continue
            chance = max(score.values(), default=None) if isinstance(score, dict) else score
            if chance is None:
                continue  # nobody has an opinion yet
            of_block = self._open.setdefault(number, {})
            place = min(max(int(chance * SCORE_BINS), 0), SCORE_BINS - 1), label is not False
            rows, scores, squares = of_block.get(place, (0, 0.0, 0.0))
            of_block[place] = rows + 1, scores + chance, squares + chance * chance

    def close(self, watermark: int) -> dict[int, list[ScoreBin]]:
        """Close the blocks that the watermark (ms) has passed; return their bins by number, oldest first."""
        due = sorted(self._open)
        first = watermark // self._block_ms
        if len(due) > SCORED_BLOCKS_MAX:
            first = max(first, due[-SCORED_BLOCKS_MAX])
        if self._closed is None or self._closed < first - 1:
            self._closed, self._dirty = first - 1, True
        return {number: _bins(self._open.pop(number)) for number in due if number < first}

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        opened = {number: _bins(of_block) for number, of_block in sorted(self._open.items())}
        return {ENTRY: msgspec.msgpack.encode(_State(self._closed, self.late, opened))}

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state; without an entry it begins."""
        state = msgspec.msgpack.decode(entries[ENTRY], type=_State) if ENTRY in entries else _State()
        self._closed, self.late = state.closed, state.late
        self._open = {
            number: {(one.bin, one.label): (one.rows, one.score, one.squares) for one in bins}
            for number, bins in state.open.items()
        }
        self._dirty = ENTRY not in entries


def _bins(of_block: dict[_Bin, tuple[int, float, float]]) -> list[ScoreBin]:
    return [
        ScoreBin(number, label, rows, score, squares)
        for (number, label), (rows, score, squares) in sorted(of_block.items())
    ]
