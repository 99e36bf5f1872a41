"""The alerts of `headrace skew`: features that are served otherwise than the raw events say.

Lives here: the shares of its comparison as a signal, going on with what it told before.  Never here: what is
compared (`operators/skew`), when an alert begins and ends (`operators/monitor/alerts.py`), channels.

It begins with the first records of the logs whenever it starts, so it looks at shares only when it has read
all, and by the clock; under which ids it has told before stands on the alerts topic.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

from engine.alerts.reading import PARTITION, alert_tail, newest
from engine.definition.pipeline import Pipeline
from engine.kafka.sink import Sink
from engine.settings import KafkaSettings
from operators.monitor.alerts import AlertBook
from topics.alert_records import alert_records

__all__ = ["SkewAlerts"]


class SkewAlerts:
    """What one process tells of skew; where no alert is about it, nothing is read or written."""

    def __init__(self, pipeline: Pipeline, kafka: KafkaSettings, sink: Sink) -> None:
        self._pipeline, self._kafka, self._sink = pipeline, kafka, sink
        alerts = [one for one in pipeline.policies if one.scope == "skew"]
        self._book = AlertBook(pipeline.name, alerts)
        self._adopted = not alerts

    async def look(self, shares: Mapping[str, float]) -> None:
        """Write what is to be told of the shares by feature, as of now.  Raises BrokerError."""
        if not self._book.alerts:
            return
        topic = self._pipeline.catalog["alerts"]
        if not self._adopted:
            told = newest(one for _, one in await alert_tail(self._kafka, topic))
            self._book.adopt(told.values())
            self._adopted = True
        if due := self._book.read(time.time_ns() // 1_000_000, {"skew": shares}):
            await self._sink.send(topic, PARTITION, alert_records(self._pipeline.name, due, Counter()))
            await self._sink.flush()
