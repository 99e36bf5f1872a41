"""Alerts as they lie on their topic: the newest record of each.

Lives here: the tail of that topic.  Never here: what is made of it, channels.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from engine.kafka.log_reader import record_tail
from engine.settings import KafkaSettings
from topics.codec import decode_alert, decode_decision
from topics.messages import AlertRecord, Record

__all__ = ["PARTITION", "TAIL_MAX", "acks_in", "alert_tail", "alerts_in", "newest"]

TAIL_MAX = 10_000
"""Records of the topic that are looked at, the newest: what is older and still open is lost sight of."""
PARTITION = 0


def alerts_in(records: Iterable[Record]) -> list[tuple[int, AlertRecord]]:
    """Return the alerts of records with their offsets; what is none is passed over."""
    found = []
    for record in records:
        try:
            found.append((record.offset, decode_alert(record.value or b"")))
        except msgspec.MsgspecError:
            continue
    return found


async def alert_tail(
    kafka: KafkaSettings, topic: str, until: int | None = None
) -> list[tuple[int, AlertRecord]]:
    """Return the newest alerts of a topic with their offsets, those before `until`.  Raises BrokerError."""
    return alerts_in(await record_tail(kafka, topic, TAIL_MAX, until))


def acks_in(records: Iterable[Record]) -> dict[str, bool]:
    """Return the last word on each alert in records of the decisions topic: whether it was a false alarm."""
    found: dict[str, bool] = {}
    for record in records:
        try:
            decision = decode_decision(record.value or b"")
        except msgspec.MsgspecError:
            continue
        if decision.type == "alert.acked":
            found[str(decision.evidence["alert_id"])] = decision.evidence["false_alarm"] == "true"
    return found


def newest(records: Iterable[AlertRecord]) -> dict[str, AlertRecord]:
    """Return the last record of each alert, by id, those that spoke last at the end.

    A policy has one alert of a subject at a time: of one that fires, and of which another id has been told
    since, nobody tells the end.  It was told by a worker that had been replaced; it is left out.
    """
    found: dict[str, AlertRecord] = {}
    last: dict[tuple[str, str], str] = {}
    for one in records:
        found.pop(one.alert_id, None)
        before = found.get(last.get((one.policy, one.subject), ""))
        if before is not None and before.state == "firing":
            del found[before.alert_id]
        found[one.alert_id] = one
        last[one.policy, one.subject] = one.alert_id
    return found
