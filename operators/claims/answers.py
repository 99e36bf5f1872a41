"""The answers of a pipeline, read from its predictions topic by the claims rule.

Lives here: which records of a predictions topic are answers that count, and up to where each partition was
read.  Never here: the rule itself (`rule.py`), Kafka (`engine/answering`).

A reader of the whole log needs no more than the rule.  One that begins within it, because it comes late or
the topic has deleted what is old, has missed claim records.  It takes them from the records themselves: a
record carries its claim, and a claim is in the log before all records that carry it.

    log      claim 6   6:0   6:1   claim 7   6:2   7:0   6:3   7:1   7:2
    begins here                              ^
    counts                                   yes*  yes   no    yes   yes

`*` a record of a worker that was replaced, which only the whole log tells: until the first record of the
highest claim is met, what a reader that begins late takes for an answer may be one of those.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from operators.claims.rule import Reader
from topics import headers
from topics.codec import decode_claim, decode_prediction
from topics.messages import Prediction

__all__ = ["AnswerReader", "PartitionRead"]


class PartitionRead(NamedTuple):
    """Up to where one partition was read, and what is known of its claims there."""

    position: int
    """Offset of the next record."""
    claim: int = 0
    """The highest claim before it; 0 for none."""
    sequence: int = 0
    """The next sequence number of that claim; -1 after a gap."""


class AnswerReader:
    """Which records of a predictions topic count, for any number of its partitions.

    >>> from topics.codec import encode
    >>> from topics.messages import Claim
    >>> answer = Prediction("p:e1", "e1", 5, 6, "m", 1, 0, "champion", 0.7, True, "champion", {}, 40, 2, 0)
    >>> answers = AnswerReader()
    >>> answers.take(0, 0, encode(Claim(0, 2)), headers.CLAIM) is None
    True
    >>> answers.take(0, 1, encode(answer), ()).event_id
    'e1'
    >>> answers.take(0, 2, encode(answer), ()) is None, dict(answers.counts)
    (True, {'claims': 1, 'answers': 1, 'dropped': 1})
    >>> answers.read
    {0: PartitionRead(position=3, claim=2, sequence=1)}
    """

    def __init__(self, read: Mapping[int, PartitionRead] | None = None) -> None:
        """Go on where `read`, of an earlier reader, says; partitions not in there begin anywhere."""
        self.counts: Counter[str] = Counter()
        """Records by what they were: `answers` that count, `claims`, `dropped` (repeats, and records of
        workers that were replaced), `foreign` (no message of Headrace), `before` (read already)."""
        self._positions: dict[int, int] = {}
        self._readers: dict[int, Reader] = {}
        for partition, at in (read or {}).items():
            self._positions[partition] = at.position
            self._readers[partition] = Reader((partition, at.claim, at.sequence))

    @property
    def read(self) -> dict[int, PartitionRead]:
        """Return up to where each partition was read: with this, another reader goes on."""
        return {
            partition: PartitionRead(position, *self._readers[partition].standing(partition))
            for partition, position in self._positions.items()
        }

    def take(
        self, partition: int, offset: int, value: bytes | None, sent: Iterable[tuple[str, bytes]] | None
    ) -> Prediction | None:
        """Take the next record of a partition, in log order; return the answer, if it is one that counts.

        `sent` are the record's headers.
        """
        reader = self._readers.setdefault(partition, Reader())
        if offset < self._positions.get(partition, 0):
            self.counts["before"] += 1
            return None
        self._positions[partition] = offset + 1
        try:
            if headers.record_type_of(tuple(sent or ())) == "claim":
                claim = decode_claim(value or b"")
                if claim.source_partition == partition:
                    reader.claim(partition, claim.claim)
                self.counts["claims"] += 1
                return None
            answer = decode_prediction(value or b"")
        except ValueError:  # of msgspec, too
            self.counts["foreign"] += 1
            return None
        if answer.claim > reader.highest(partition):
            reader = self._readers[partition] = Reader((partition, answer.claim, answer.sequence))
        counted = reader.counts(partition, answer.claim, answer.sequence)
        self.counts["answers" if counted else "dropped"] += 1
        return answer if counted else None
