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

from msgspec.structs import replace

from engine.definition.pipeline import Pipeline
from engine.machines.outbox import Outbox, Scored
from operators.drift.sampler import BlockSampler
from operators.monitor.before_labels.answered import ENTRY, AnsweredScores
from operators.state import StateDelta, StateEntries
from operators.stopwatch import Stopwatch
from topics.messages import Block, Prediction, ScoreBin

__all__ = ["Blocks"]

_NEVER: Final = 1 << 62
_SETTINGS: Final = "settings"
"""The entry that says what the others were sampled by."""


class Blocks:
    """What a partition keeps of its answers, and its way into the log: a sample, and scores by bin.

    Without `watch` and `Estimated(answered=True)` it keeps nothing.
    """

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
        self._scores: AnsweredScores | None = None
        self._unwritten = False
        """Whether the settings are in no delta yet."""
        if (watch := pipeline.watch) is not None:
            self._begin(watch.block_ms, f"{watch.block_ms} {watch.rows_max} {pipeline.features_version}")
            self._sampler = BlockSampler(watch, len(pipeline.plan.features))
            outbox.refused = self._sampler.refuse
        if (estimate := pipeline.estimate) is not None and estimate.answered:
            self._begin(estimate.block_ms, f"{self._settings.decode()} {estimate.block_ms} answered")
            self._scores = AnsweredScores(estimate.block_ms)

    def _begin(self, block_ms: int, settings: str) -> None:
        self._block_ms, self.closes_at = block_ms, 0
        self._settings, self._unwritten = settings.encode(), True

    def take(self, scored: Sequence[Scored]) -> None:
        """Take the answers of this run that have not been taken yet."""
        if self.closes_at == _NEVER or len(scored) == self.taken:
            return
        started = self._stopwatch.clock()
        new = scored[self.taken :]
        self.taken = len(scored)
        answers = [answer for answer, _, _ in new]
        if self._scores is not None:
            self._scores.take(
                (answer.event_time, answer.prediction_score, answer.prediction_label) for answer in answers
            )
        if self._sampler is not None:
            self._sample(new, answers)
        self._stopwatch.steps["watch"] += self._stopwatch.clock() - started

    def _sample(self, new: Sequence[Scored], answers: Sequence[Prediction]) -> None:
        assert self._sampler is not None
        self._sampler.take(
            [answer.event_id for answer in answers],
            [key for _, key, _ in new],
            [answer.event_time for answer in answers],
            [answer.features for answer in answers],
            [answer.prediction_score for answer in answers],
            [answer.served_by for answer in answers],
        )

    @property
    def next_deadline(self) -> int | None:
        """Return the watermark that closes the oldest open block, ms; None where none is open."""
        both = [one.next_deadline for one in (self._sampler, self._scores) if one is not None]
        return min((one for one in both if one is not None), default=None)

    def close(self, watermark: int, at_offset: int) -> None:
        """Write the blocks that a watermark closes, moved by the record at `at_offset`.

        All answers before it have been taken.
        """
        sampled = [] if self._sampler is None else self._sampler.close(watermark)
        blocks = {block.number: block for block in sampled}
        if self._scores is not None:
            for number, bins in self._scores.close(watermark).items():
                blocks[number] = replace(blocks.get(number) or self._unsampled(number, bins), answered=bins)
                self._scores.late = 0
        for _, block in sorted(blocks.items()):
            self._outbox.block(block, at_offset)
        self.closes_at = (watermark // self._block_ms + 1) * self._block_ms

    def _unsampled(self, number: int, bins: Sequence[ScoreBin]) -> Block:
        """Return a block of which nothing but scores is kept."""
        assert self._scores is not None
        start_ms, late = number * self._block_ms, self._scores.late
        rows = sum(one.rows for one in bins)
        return Block(number, start_ms, start_ms + self._block_ms, rows, late, {}, {}, [], {}, [])

    def erase(self, key: str) -> None:
        """Forget the rows of a key."""
        if self._sampler is not None:
            self._sampler.erase(key)

    # -- state ------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        entries = {_SETTINGS: self._settings} if self._settings else {}
        for part in (self._sampler, self._scores):
            entries |= {} if part is None else part.snapshot()
        return entries

    def delta(self) -> StateDelta:
        """Return the entries that changed since the last call."""
        delta, self._gone = self._gone, {}
        for part in (self._sampler, self._scores):
            delta |= {} if part is None else part.delta()
        if self._unwritten:
            self._unwritten = False
            delta[_SETTINGS] = self._settings
        return delta

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state; what was kept by other settings begins anew."""
        same = entries.get(_SETTINGS) == self._settings
        self._gone = {} if same else dict.fromkeys(entries)
        if self.closes_at == _NEVER:
            return
        rest = {name: data for name, data in entries.items() if name not in {_SETTINGS, ENTRY}}
        if self._sampler is not None:
            self._sampler.restore(rest if same else {})
        if self._scores is not None:
            self._scores.restore(entries if same else {})
        self._unwritten = not same
        self.closes_at = 0
