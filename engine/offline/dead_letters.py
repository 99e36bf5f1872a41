"""Dead letters as a person wants them: how many of each stage, and what the first of each said.

Lives here: counting refused records, one of them as plain values.  Never here: why something is refused
(`refusals.py`, `topics/codec.py`), files, topics.
"""

from __future__ import annotations

import base64
from collections import Counter
from typing import Any

from topics.headers import Refusal, refusal_of
from topics.messages import Headers

__all__ = ["DeadLetters", "letter_lines", "plain_letter"]

TEXT_MAX = 300
"""Characters of a reason that are shown; a message may quote what was sent."""


class DeadLetters:
    """Refused records by stage, with the first of each.

    >>> from topics.headers import dead_letter
    >>> from topics.messages import Record
    >>> letters = DeadLetters()
    >>> refused = Record("e", 0, 6, None, None, b"x")
    >>> _ = letters.add(dead_letter(refused, stage="decode", exception="ValueError", message="no JSON"))
    >>> letter_lines(letters.report({"e": "events.jsonl"}))
    ['1 decode: no JSON (events.jsonl line 7)']
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, Refusal] = {}
        """By stage; at most one of each."""

    def add(self, found: Headers) -> Refusal:
        """Count a dead letter by its headers; return what they say."""
        refusal = refusal_of(found)
        self.counts[refusal.stage] += 1
        self.first.setdefault(refusal.stage, refusal)
        return refusal

    def report(self, files: dict[str, str]) -> dict[str, dict[str, Any]]:
        """Return count, first message and its place by stage.

        `files` are names of files by topic, whose lines count from 1.
        """
        return {
            stage: {
                "count": count,
                "first": self.first[stage].message[:TEXT_MAX],
                "place": _place(self.first[stage], files),
            }
            for stage, count in self.counts.items()
        }


def letter_lines(report: dict[str, dict[str, Any]]) -> list[str]:
    """Return what `DeadLetters.report` gave as one line a stage."""
    return [f"{one['count']:,} {stage}: {one['first']} ({one['place']})" for stage, one in report.items()]


def _place(refusal: Refusal, files: dict[str, str]) -> str:
    if refusal.topic in files:
        return f"{files[refusal.topic]} line {refusal.offset + 1}"
    return f"topic {refusal.topic} partition {refusal.partition} offset {refusal.offset}"


def plain_letter(refusal: Refusal, value: bytes | None) -> dict[str, Any]:
    """Return a dead letter as one plain object; bytes that are no text go as base64.

    >>> plain_letter(Refusal("decode", "E", "no", "t", 0, 4), bytes([255]))["value_base64"]
    '/w=='
    """
    told: dict[str, Any] = refusal._asdict()
    try:
        return told | {"value": None if value is None else value.decode()}
    except UnicodeDecodeError:
        return told | {"value_base64": base64.b64encode(value or b"").decode()}
