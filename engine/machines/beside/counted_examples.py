"""The examples of a log that count, for whoever reads it beside the race.

Lives here: which record of the log is an example that counts.  Never here: what is done with it, nor the fold
of the race itself (`../learner.py`), which also acts on every other record.

Every numbered record is counted on the way, by the one rule (`operators/claims/rule.py`).
"""

from __future__ import annotations

import msgspec

from operators.claims.rule import Reader
from topics.codec import decode_block, decode_claim, decode_example, decode_quarantine
from topics.headers import record_type_of
from topics.messages import Example, Record

__all__ = ["CountedExamples"]


class CountedExamples:
    """A reader of the examples log from its start.

    >>> CountedExamples().example(Record("p.examples", 0, 7, 0, None, None)) is None
    True
    """

    def __init__(self) -> None:
        self._reader = Reader()

    def example(self, record: Record) -> Example | None:
        """Return the example that the next record is, if it counts; None for every other record."""
        value = record.value or b""
        try:
            match record_type_of(record.headers):
                case "claim":
                    claim = decode_claim(value)
                    self._reader.claim(claim.source_partition, claim.claim)
                case "quarantine":
                    report = decode_quarantine(value)
                    self._reader.counts(report.source_partition, report.claim, report.sequence)
                case "block":
                    block = decode_block(value)
                    self._reader.counts(block.source_partition, block.claim, block.sequence)
                case "example":
                    example = decode_example(value)
                    if self._reader.counts(example.source_partition, example.claim, example.sequence):
                        return example
        except msgspec.MsgspecError:
            pass  # the learner counts it as refused
        return None
