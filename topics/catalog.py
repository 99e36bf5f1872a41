"""The table of all topics: role, name, value, partitions and retention of each.

Lives here: what a topic is called and how it must be configured.  Never here: a broker
(`engine/kafka/topic_admin.py` creates and checks), message fields (`messages.py`).

Names are `<pipeline>.<dataset>`: dots between levels, dashes in words, no underscores,
because Kafka's metrics cannot tell `.` and `_` apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

from topics.codec import BYTES_MAX
from topics.errors import DefinitionError
from topics.messages import (
    AlertRecord,
    Command,
    Decision,
    Example,
    ModelPointer,
    Prediction,
    Query,
    Record,
    WorkerStatus,
)
from topics.rekeying import RekeyedEvent, RekeyedValues

__all__ = [
    "MESSAGE_BYTES_DEFAULT",
    "Catalog",
    "Cleanup",
    "PartitionCount",
    "Role",
    "TopicPlan",
    "check_name",
]

Role = Literal[
    "events",
    "labels",
    "predictions",
    "shadow-predictions",
    "examples",
    "decisions",
    "models",
    "commands",
    "dead-letters",
    "rekey",
    "rekeyed",
    "alerts",
    "queries",
    "status",
]
Cleanup = Literal["delete", "compact", "compact,delete"]
PartitionCount = Literal["events", "learners", "one"]
"""How many partitions: as many as the events topic (co-partitioned by key), one per learner, or one."""

NAME_MAX = 249
"""Kafka's own limit: a partition's directory name, with its number, must fit 255 bytes."""
_LEGAL = re.compile(r"[A-Za-z0-9._-]+")

FOREVER_MS = -1
"""Kafka's `retention.ms` for "never": the examples log is the model, decisions are the audit."""
DAY_MS = 86_400_000
SEGMENT_MS = 3_600_000
"""Kafka compacts no segment that is still written to, and by itself starts one a week."""

MESSAGE_BYTES_DEFAULT = 1_048_588
"""Kafka's `max.message.bytes` where nobody has set it."""
REASON_BYTES = 65_536
"""By how much a dead letter is larger than its record, at most, unless it has very many headers."""


class TopicPlan(NamedTuple):
    """A topic as it must be: what `headrace topics` prints before anything is created."""

    role: Role
    name: str
    partitions: int
    cleanup: Cleanup
    retention_ms: int | None
    """None leaves the broker's default; `FOREVER_MS` keeps all."""
    create: bool
    """False for the user's own topics: they are checked, never created, unless asked for."""
    bytes_needed: int = 0
    """The largest value that the pipeline writes; 0: small, or the user's own."""

    @property
    def configs(self) -> dict[str, str]:
        """The topic's settings under Kafka's names; those left out are the broker's."""
        configs = {"cleanup.policy": self.cleanup, "message.timestamp.type": "CreateTime"}
        if self.retention_ms is not None:
            configs["retention.ms"] = str(self.retention_ms)
        if self.cleanup == "compact,delete":
            configs["segment.ms"] = str(SEGMENT_MS)
        if self.bytes_needed:
            # A sixteenth more than needed: brokers count whole batches, and compressed ones.
            needed = self.bytes_needed + self.bytes_needed // 16
            configs["max.message.bytes"] = str(max(MESSAGE_BYTES_DEFAULT, needed))
        return configs


class _Row(NamedTuple):
    role: Role
    value: type | None
    key: str
    partitions: PartitionCount
    cleanup: Cleanup
    retention_ms: int | None


_TABLE = (
    _Row("events", None, "the event's key", "events", "delete", None),
    _Row("labels", None, "the event's key", "events", "delete", None),
    _Row("predictions", Prediction, "the event's key", "events", "delete", None),
    _Row("shadow-predictions", Prediction, "the event's key", "events", "delete", None),
    _Row("examples", Example, "the event's key", "learners", "delete", FOREVER_MS),
    _Row("decisions", Decision, "the pipeline's name", "learners", "delete", FOREVER_MS),
    _Row("models", ModelPointer, "<pipeline>@<alias>", "one", "compact", None),
    _Row("commands", Command, "the command's id", "one", "delete", None),
    _Row("dead-letters", Record, "the refused record's key", "events", "delete", None),
    _Row("rekey", RekeyedEvent, "the key of another window", "events", "delete", None),
    _Row("rekeyed", RekeyedValues, "none: back to the event's partition", "events", "delete", None),
    _Row("alerts", AlertRecord, "the alert's id", "one", "delete", None),
    _Row("queries", Query, "the event's key", "one", "delete", None),
    _Row("status", WorkerStatus, "the worker's name", "one", "compact,delete", DAY_MS),
)
_USERS: frozenset[Role] = frozenset({"events", "labels"})
_ALERTS: frozenset[Role] = frozenset({"alerts"})
_QUERIES: frozenset[Role] = frozenset({"queries"})
_INTERNAL: frozenset[Role] = frozenset({"rekey", "rekeyed"})
"""Only where windows have other keys than the topic; alerts and
queries, too, are there only where they are asked for."""


class Catalog(dict[Role, str]):
    """The topics of one pipeline, by role; without `labels` where events carry their label.

    `events` and `labels` are the user's names (`labels=None` where events carry their
    label).  `names` overrides any other by role.  `rekeying` says that events travel to the
    partitions of other keys, which takes two topics more, `alerting` that there are alerts, and `querying`
    that people are asked for labels, which take one each.  `keyed`: each key has a race of its own, so there
    are as many learners as event partitions.
    `bytes_max` is the size of the largest answer.  Raises DefinitionError for a name Kafka
    refuses, an unknown role, and two roles under one name.

    >>> catalog = Catalog("flights", events="flights.departures", labels="flights.arrivals")
    >>> catalog["predictions"]
    'flights.predictions'
    >>> [f"{plan.name} x{plan.partitions}" for plan in catalog.plan(events=4)][:3]
    ['flights.departures x4', 'flights.arrivals x4', 'flights.predictions x4']
    """

    def __init__(
        self,
        pipeline: str,
        *,
        events: str,
        labels: str | None = None,
        names: Mapping[str, str] | None = None,
        rekeying: bool = False,
        alerting: bool = False,
        querying: bool = False,
        keyed: bool = False,
        bytes_max: int = 0,
    ) -> None:
        check_name(pipeline)
        overrides = dict(names or {})
        unknown = sorted(set(overrides) - {row.role for row in _TABLE} | set(overrides) & _USERS)
        if unknown:
            raise DefinitionError(
                f"no topic with the role {unknown[0]!r} can be renamed",
                hint=f"roles are {', '.join(row.role for row in _TABLE if row.role not in _USERS)}",
            )
        self.pipeline = pipeline
        self._keyed = keyed
        self._bytes_needed: dict[Role, int] = {
            "predictions": bytes_max,
            "shadow-predictions": bytes_max,
            "examples": bytes_max,
            "rekey": bytes_max + BYTES_MAX,
            "rekeyed": bytes_max,
            "dead-letters": MESSAGE_BYTES_DEFAULT + REASON_BYTES,
        }
        super().__init__({"events": events})
        if labels is not None:
            self["labels"] = labels
        left_out = _USERS | (frozenset() if rekeying else _INTERNAL) | (frozenset() if alerting else _ALERTS)
        left_out |= frozenset() if querying else _QUERIES
        for row in _TABLE:
            if row.role not in left_out:
                self[row.role] = overrides.get(row.role, f"{pipeline}.{row.role}")
        by_name: dict[str, Role] = {}
        for role, name in self.items():
            check_name(name)
            if name in by_name:
                raise DefinitionError(
                    f"{by_name[name]} and {role} would share the topic {name!r}",
                    hint="give each role a topic of its own",
                )
            by_name[name] = role
        self.roles: Mapping[str, Role] = by_name

    def plan(self, *, events: int) -> tuple[TopicPlan, ...]:
        """Return every topic as it must be, for so many partitions of events."""
        learners = events if self._keyed else 1
        counts: dict[PartitionCount, int] = {"events": events, "learners": learners, "one": 1}
        if events < 1:
            raise DefinitionError(f"{events} event partitions cannot be", hint="the count starts at 1")
        return tuple(
            TopicPlan(
                role=row.role,
                name=self[row.role],
                partitions=counts[row.partitions],
                cleanup=row.cleanup,
                retention_ms=row.retention_ms,
                create=row.role not in _USERS,
                bytes_needed=self._bytes_needed.get(row.role, 0),
            )
            for row in _TABLE
            if row.role in self
        )

    def describe(self) -> tuple[tuple[Role, str, str, str], ...]:
        """Return role, name, key and value type of each topic, for documents and `check`."""
        return tuple(
            (row.role, self[row.role], row.key, _value_name(row.value)) for row in _TABLE if row.role in self
        )


def _value_name(value: type | None) -> str:
    if value is None:
        return "yours"
    return "the refused bytes" if value is Record else value.__name__


def check_name(name: str) -> None:
    """Raise DefinitionError unless Kafka takes `name` as a topic's name.

    Rules of `org.apache.kafka.common.internals.Topic.validate`.
    """
    if name in {"", ".", ".."} or len(name) > NAME_MAX or not _LEGAL.fullmatch(name):
        raise DefinitionError(
            f"{name!r} is no name Kafka takes for a topic",
            hint=f"1 to {NAME_MAX} of the characters A-Z a-z 0-9 . _ -, and not just dots",
        )
