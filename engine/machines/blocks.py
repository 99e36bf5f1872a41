"""The blocks of one events partition: what was answered, sampled behind the answers and written when closed.

Lives here: when answers enter the sample, when a block is closed, and that it stands in the log once.  Never
here: which rows are sampled (`operators/drift/sampler.py`), what a block says (`operators/drift/watcher.py`).

A block is closed by the first event whose watermark passes its end, before that event is answered: so its
record stands at the same place of the log however the shell cuts its batches.  In a partition to which
nothing comes only a record that moves the watermark closes one (`topics/watermarks.py`).  A replay takes the
answers that are logged, so it makes the same block again, which is left out if it is logged and else written
with the same content.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from engine.definition.pipeline import Pipeline
from engine.machines.outbox import Outbox, Scored
from operators.drift.sampler import BlockSampler
from operators.state import StateDelta, StateEntries
from operators.stopwatch import Stopwatch

__all__ = ["Blocks"]

_NEVER: Final = 1 << 62
_SETTINGS: Final = "settings"
"""The entry that says what the others were sampled by."""


class Blocks:
    """The sampler of one partition and its way into the log; without `watch` it keeps nothing."""

    def __init__(self, pipeline: Pipeline, outbox: Outbox, stopwatch: Stopwatch) -> None:
        self._outbox, self._stopwatch = outbox, stopwatch
        self._sampler: BlockSampler | None = None
        self._settings, self._block_ms = b"", 0
        self.closes_at = _NEVER
        """The first watermark that may close a block, ms."""
        self.taken = 0
        """How many of the scorer's answers of this run have been taken."""
        self._gone: StateDelta = {}
        """Entries of a restored state that was sampled by other settings."""
        if (watch := pipeline.watch) is None:
            return
        self._block_ms, self.closes_at = watch.block_ms, 0
        self._sampler = BlockSampler(watch, len(pipeline.plan.features))
        self._settings = f"{watch.block_ms} {watch.rows_max} {pipeline.features_version}".encode()
        self._unwritten = True
        """Whether the settings are in no delta yet."""
        outbox.refused = self._sampler.refuse

    def take(self, scored: Sequence[Scored]) -> None:
        """Take the answers of this run that have not been taken yet."""
        if self._sampler is None or len(scored) == self.taken:
            return
        started = self._stopwatch.clock()
        new = scored[self.taken :]
        self.taken = len(scored)
        answers = [answer for answer, _, _ in new]
        self._sampler.take(
            [answer.event_id for answer in answers],
            [key for _, key, _ in new],
            [answer.event_time for answer in answers],
            [answer.features for answer in answers],
            [answer.prediction_score for answer in answers],
            [answer.served_by for answer in answers],
        )
        self._stopwatch.steps["watch"] += self._stopwatch.clock() - started

    @property
    def next_deadline(self) -> int | None:
        """Return the watermark that closes the oldest open block, ms; None where none is open."""
        return None if self._sampler is None else self._sampler.next_deadline

    def close(self, watermark: int, at_offset: int) -> None:
        """Write the blocks that a watermark closes, moved by the record at `at_offset`.

        All answers before it have been taken.
        """
        assert self._sampler is not None
        for block in self._sampler.close(watermark):
            self._outbox.block(block, at_offset)
        self.closes_at = (watermark // self._block_ms + 1) * self._block_ms

    def erase(self, key: str) -> None:
        """Forget the rows of a key."""
        if self._sampler is not None:
            self._sampler.erase(key)

    # -- state ------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        return {} if self._sampler is None else self._sampler.snapshot() | {_SETTINGS: self._settings}

    def delta(self) -> StateDelta:
        """Return the entries that changed since the last call."""
        delta, self._gone = self._gone, {}
        if self._sampler is not None:
            delta |= self._sampler.delta()
            if self._unwritten:
                self._unwritten = False
                delta[_SETTINGS] = self._settings
        return delta

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state; one that was sampled by other settings begins anew."""
        same = entries.get(_SETTINGS) == self._settings
        self._gone = {} if same else dict.fromkeys(entries)
        if self._sampler is not None:
            rest = {name: data for name, data in entries.items() if name != _SETTINGS}
            self._sampler.restore(rest if same else {})
            self._unwritten = not same
            self.closes_at = 0
