"""What people say of alerts: seen, and whether they told of something.

Lives here: the newest word on each alert, and how many of each policy's told of nothing.  Never here: who may
say it (`topics/signatures.py`), when it acts (`operators/race/commands.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from operators.state import StateEntries, WholeState

__all__ = ["Acks", "Precision", "policy_in"]

REMEMBERED_MAX: Final = 1_000
"""Alerts whose last word may be changed by another; of older ones the count stays."""

ENTRY = "alert-acks"


class Precision(NamedTuple):
    """How many alerts of a policy people have judged, and how many of them told of nothing."""

    acked: int
    false: int

    @property
    def share(self) -> float:
        """Return the share of those that told of something; 1.0 where nobody has judged."""
        return 1.0 - self.false / self.acked if self.acked else 1.0


def policy_in(pipeline: str, alert_id: str) -> str | None:
    """Return the policy in the id of an alert, None for what is no id of this pipeline.

    >>> policy_in("flights", "flights:lag_records:0:1700000000000")
    'lag_records'
    >>> policy_in("flights", "bikes:lag_records:0:1") is None
    True
    """
    rest = alert_id.removeprefix(f"{pipeline}:")
    parts = rest.split(":")
    return parts[0] if rest != alert_id and len(parts) >= 3 and parts[0] else None


class Acks(WholeState):
    """The acknowledged alerts of one pipeline.

    >>> acks = Acks("flights", {"lag_records"})
    >>> acks.ack("flights:lag_records:0:17", false_alarm=True)
    >>> acks.precision()["lag_records"]
    Precision(acked=1, false=1)
    >>> acks.refusal("flights:anything:0:17")
    '`flights` has no alert called `anything`'
    """

    def __init__(self, pipeline: str, names: Iterable[str]) -> None:
        """`names` are those of the pipeline's alerts: counts by name must not grow by what somebody says."""
        self._pipeline = pipeline
        self._names = frozenset(names)
        self._said: dict[str, bool] = {}
        """Ids, oldest first, with whether it told of nothing."""
        self._acked: Counter[str] = Counter()
        self._false: Counter[str] = Counter()

    def refusal(self, alert_id: str | None) -> str:
        """Return why an id cannot be one of this pipeline's, empty if it can."""
        if not alert_id:
            return "ack needs an alert_id"
        if (policy := policy_in(self._pipeline, alert_id)) is None:
            return f"`{alert_id}` is no id of an alert of {self._pipeline}"
        if policy not in self._names:
            return f"`{self._pipeline}` has no alert called `{policy}`"
        return ""

    def follow(self, names: Iterable[str]) -> None:
        """Take acknowledgements of these alerts from here on, and forget what was said of others."""
        self._names, self._dirty = frozenset(names), True
        for counts in (self._acked, self._false):
            for policy in counts.keys() - self._names:
                del counts[policy]
        self._said = {
            alert_id: false
            for alert_id, false in self._said.items()
            if policy_in(self._pipeline, alert_id) in self._names
        }

    def ack(self, alert_id: str, *, false_alarm: bool) -> None:
        """Take what somebody says of an alert; the last word on it holds."""
        policy = policy_in(self._pipeline, alert_id)
        assert policy is not None, alert_id
        self._dirty = True
        before = self._said.pop(alert_id, None)
        if before is None:
            self._acked[policy] += 1
        self._false[policy] += int(false_alarm) - int(before or False)
        self._said[alert_id] = false_alarm
        if len(self._said) > REMEMBERED_MAX:
            del self._said[next(iter(self._said))]

    def precision(self) -> dict[str, Precision]:
        """Return the counts by policy, of those that somebody has judged."""
        return {policy: Precision(count, self._false[policy]) for policy, count in self._acked.items()}

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        counts = {policy: (count, self._false[policy]) for policy, count in self._acked.items()}
        return {ENTRY: msgspec.msgpack.encode((self._said, counts))}

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state; checkpoints from before there were alerts have none."""
        self._said, self._acked, self._false = {}, Counter(), Counter()
        if data := entries.get(ENTRY):
            self._said, counts = msgspec.msgpack.decode(
                data, type=tuple[dict[str, bool], dict[str, tuple[int, int]]]
            )
            self._acked = Counter({policy: acked for policy, (acked, _) in counts.items()})
            self._false = Counter({policy: false for policy, (_, false) in counts.items()})
        self._dirty = False
