"""Questions to people in a scorer: which answers are doubtful, asked for when their window is over.

Lives here: when windows are closed, which of their events is asked for, the message.  Never here: how
doubtful an answer is (`operators/join/queries.py`), where the message goes.
"""

from __future__ import annotations

from collections import Counter

from engine.definition.pipeline import Pipeline
from engine.machines.outbox import Outbox
from operators.join.join import Join
from operators.join.pending import WaitingAnswer
from operators.join.queries import Doubtful, QueryWindows
from operators.state import Operator
from topics.codec import decode_prediction
from topics.messages import Query

__all__ = ["Asking"]


class Asking:
    """The questions of one events partition; nothing happens where the pipeline asks none."""

    def __init__(
        self,
        pipeline: Pipeline,
        partition: int,
        outbox: Outbox,
        join: Join[WaitingAnswer],
        counts: Counter[tuple[str, str]],
    ) -> None:
        queries = pipeline.queries
        self.windows: QueryWindows | None = None
        self.parts: dict[str, Operator] = {}
        """The parts that a checkpoint must hold, by name."""
        if queries is not None:
            share = queries.share(partition, pipeline.events.partitions)
            self.windows = QueryWindows(queries, share)
            self.parts = {"queries": self.windows}
            self._by, self._per_ms = queries.by, queries.per_ms
        self._prefix = f"{pipeline.name}:"
        self._partition = partition
        self._outbox, self._join, self._counts = outbox, join, counts

    @property
    def next_deadline(self) -> int | None:
        """Return the watermark, ms, beyond which something is asked; None: nothing is."""
        return None if self.windows is None else self.windows.next_deadline

    def opened(self, waiting: WaitingAnswer, watermark: int) -> None:
        """Take an answer whose entry is open, of an event that was admitted at this watermark."""
        if self.windows is not None and not self.windows.offer(
            waiting.prediction, waiting.key, waiting.scores
        ):
            self._counts["queries", "late"] += 1
        self.close(watermark)

    def close(self, watermark: int) -> None:
        """Ask for what the windows hold that the watermark has passed."""
        if self.windows is None:
            return
        for start, asked in self.windows.close(watermark):
            for rank, one in enumerate(asked, 1):
                self._ask(one, start, rank, watermark)

    def erase(self, key: str) -> None:
        """Forget the answers to events of a key."""
        if self.windows is not None:
            self.windows.erase(key)

    def _ask(self, asked: Doubtful, start: int, rank: int, watermark: int) -> None:
        """Ask for one label, unless it has come or would come too late."""
        answer = decode_prediction(asked.answer)
        until = answer.event_time + self._join.wait_ms
        if until < watermark:
            self._counts["queries", "expired"] += 1
            return
        waiting = self._join.known(asked.event_id)
        if not isinstance(waiting, WaitingAnswer) or waiting.label is not None or waiting.labels:
            self._counts["queries", "labelled"] += 1
            return
        self._counts["queries", "sent"] += 1
        self._outbox.query(
            Query(
                query_id=f"{self._prefix}{start}:{asked.event_id}",
                event_id=asked.event_id,
                key=asked.key,
                event_time=answer.event_time,
                by=self._by,
                doubt=asked.doubt,
                rank=rank,
                window_start=start,
                window_end=start + self._per_ms,
                until=until,
                model_name=answer.model_name,
                prediction_score=answer.prediction_score,
                prediction_label=answer.prediction_label,
                scores=asked.scores,
                features=answer.features,
                partition=self._partition,
                event_offset=answer.event_offset,
            )
        )
