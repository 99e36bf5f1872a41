"""Alerts as records of their topic, counted.

Lives here: key, headers and time of such a record.  Never here: when somebody is told (`operators/monitor`),
channels (`engine/alerts`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from topics import headers
from topics.codec import encode
from topics.messages import AlertRecord, Outgoing

__all__ = ["alert_records"]


def alert_records(
    pipeline: str, alerts: Iterable[AlertRecord], counts: Counter[tuple[str, str]]
) -> list[Outgoing]:
    """Return alerts as records to be written, and count them.

    >>> told = AlertRecord("p:a::1", "a", "told", "signal", "info", 5, 1, "so it is")
    >>> [(one.target, one.key, one.timestamp_ms) for one in alert_records("p", [told], Counter())]
    [('alerts', b'p:a::1', 5)]
    """
    source = headers.cloud_event("dev.headrace.alert", f"headrace/{pipeline}")
    records = []
    for alert in alerts:
        counts["alerts", f"{alert.policy} {alert.state}"] += 1
        key = alert.alert_id.encode()
        records.append(Outgoing("alerts", None, key, encode(alert), (*source, ("ce_id", key)), alert.time))
    return records
