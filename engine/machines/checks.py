"""Rules and alerts in a scorer, a run at a time: counts, flags and alert records.

Lives here: counting broken rules, the flags of answers, the records of alerts.  Never here: how a rule is
decided (`operators/rules/apply.py`), what is new (`operators/rules/novelty.py`), when an event is admitted
(`scorer.py`).

The field rules have been applied when a run comes here: the decoder did it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from engine.definition.pipeline import Pipeline
from engine.machines.admission import EventRead
from engine.machines.outbox import Outbox
from operators.language.rules import Rule
from operators.rules.apply import FeatureRules
from operators.rules.novelty import Novelty, Told
from operators.state import Operator
from topics.messages import AlertRecord, Event, FeatureValues, NoveltyKind

__all__ = ["Checks"]


class Checks:
    """Rules and alerts of one events partition."""

    def __init__(
        self, pipeline: Pipeline, partition: int, outbox: Outbox, counts: Counter[tuple[str, str]]
    ) -> None:
        fields, features = pipeline.rule_plan
        self._fields = fields
        self._features = features
        self._rules: FeatureRules | None = None
        if features:
            self._rules = FeatureRules(features, pipeline.feature_types())
        plan = pipeline.novelty
        self._alerts = {} if plan is None else plan.alerts
        self.novelty = None if plan is None else Novelty(plan, pipeline.events.type)
        self.parts: dict[str, Operator] = {} if self.novelty is None else {"novelty": self.novelty}
        """The parts that a checkpoint must hold, by name."""
        self._schema = plan is not None and plan.schema
        self._payloads: Mapping[int, bytes | None] = {}
        self._prefix = f"{pipeline.name}:"
        self._partition = partition
        self._outbox = outbox
        self._counts = counts

    def read(self, run: Sequence[EventRead]) -> None:
        """Count the rules that the decoder found broken in a run, and keep its bytes while it is answered."""
        self._outbox.flags.clear()
        if self._fields:
            for read in run:
                if hits := read.decoded.hits:
                    self._hit(read.record.offset, self._fields, hits)
        if self._schema:
            self._payloads = {read.record.offset: read.record.value for read in run}

    def admitted(self, events: Sequence[Event], rows: Sequence[FeatureValues]) -> None:
        """Apply the rules about features to the rows of admitted events, and send alerts of what is new."""
        if self._rules is not None:
            for index, hits in self._rules.check_all(rows).items():
                self._hit(events[index].offset, self._features, hits)
        if self.novelty is not None:
            crcs = [event.payload_crc for event in events]
            for told in self.novelty.step(events, crcs, self._payloads):
                self._alert(told, events[told.event_index])

    def _hit(self, offset: int, rules: Sequence[Rule], hits: Sequence[int]) -> None:
        flags = self._outbox.flags
        for number in hits:
            rule = rules[number]
            self._counts["rule_hits", f"{rule.action} {rule.name}"] += 1
            if rule.action == "flag":
                flags[offset] = (*flags.get(offset, ()), rule.name)

    def _alert(self, told: Told, event: Event) -> None:
        kind, field, category, _ = told
        of_field = kind in {"new_category", "too_many_categories"}
        alert = self._alerts[field if of_field else ""]
        about = f"{field}:{category}" if of_field else f"{kind}:{field}"
        self._outbox.alert(
            AlertRecord(
                alert_id=f"{self._prefix}{alert.name}:{about}",
                policy=alert.name,
                state="told",
                kind=kind,
                severity=alert.severity,
                time=event.event_time,
                since=event.event_time,
                says=alert.says or _SAYS[kind].format(field=field, category=category),
                costs=_COSTS,
                act=_ACT,
                look="the event, by its partition and offset",
                runbook=alert.runbook,
                channels=alert.channels,
                field=field,
                category=category,
                event_id=event.event_id,
                event_offset=event.offset,
                partition=self._partition,
            )
        )


_SAYS: dict[NoveltyKind, str] = {
    "new_category": "{field} is {category!r}, which no event has been before",
    "too_many_categories": "{field} has more values than are remembered, and is watched no more",
    "new_field": "events carry the key {field!r}, which none has had before",
    "missing_field": "events lack the key {field!r}, which all have had before",
    "too_many_fields": "events carry more keys than are remembered, and they are watched no more",
}
_COSTS = "models have learned nothing of it"
_ACT = "ask who sends the events; where it stays, let a feature or a rule know of it"
