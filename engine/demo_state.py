"""What the demo knows: what it published, what came back, what the worker says of itself.

Lives here: counting, matching and reading a page of metrics.  Never here: the screen
(`demo_view.py`), clocks, the broker, processes (`demo.py`).

Strategy: the demo trusts nobody.  Answers are matched to events by id by a consumer of
its own; only what cannot be seen from outside (models' metrics, evidence, lag) is read
from the worker's `/metrics`.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families

from operators.losses import brier
from topics.messages import Decision, Score

__all__ = ["Answer", "Candidate", "ServedLoss", "Tally", "WorkerPage", "read_page"]

RECENT_MAX = 2_000
"""Latencies and label delays behind the figures on the screen: about the last seconds of a run."""
DECISIONS_MAX = 10_000
"""A demo makes a handful; a loop that makes more than this must not eat the memory."""
EXAMPLES_OF_TROUBLE_MAX = 5
"""Ids named in a complaint: enough to look for, few enough to read."""


class Answer(Struct, frozen=True, gc=False):
    """The part of a prediction that the demo looks at."""

    event_id: str
    model_name: str
    prediction_score: Score = None
    claim: int = 0
    sequence: int = 0


class Candidate(NamedTuple):
    """One model as the worker's metrics describe it."""

    name: str
    version: int
    kind: str
    alias: str
    labels: int
    scores: Mapping[str, float]
    """River metric -> value over everything learned."""
    recent: Mapping[str, float]
    """River metric -> value over the recent window."""
    evidence: float | None
    """Share of what a swap needs; None where the page has none."""


class WorkerPage(NamedTuple):
    """One reading of `/metrics`."""

    joined: int = 0
    learned: int = 0
    dead_letters: int = 0
    lag: int = 0
    candidates: tuple[Candidate, ...] = ()

    @property
    def champion(self) -> Candidate | None:
        """The candidate that serves, once the worker has named one."""
        return next((candidate for candidate in self.candidates if candidate.alias == "champion"), None)

    def candidate(self, name: str) -> Candidate | None:
        """Return the candidate of this name, None if the page has none."""
        return next((candidate for candidate in self.candidates if candidate.name == name), None)


def read_page(text: str) -> WorkerPage:
    """Return what a Prometheus text page says about a worker; what is missing counts as zero."""
    totals: Counter[str] = Counter()
    info: dict[str, dict[str, str]] = {}
    scores: dict[tuple[str, str], dict[str, float]] = {}
    updates: dict[str, int] = {}
    evidence: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sample.labels
            match sample.name:
                case "headrace_labels_total":
                    totals[labels.get("outcome", "")] += int(sample.value)
                case (
                    "headrace_examples_total"
                    | "headrace_dead_letters_total"
                    | "headrace_consumer_lag_records"
                ):
                    totals[sample.name] += int(sample.value)
                case "headrace_model_info" if sample.value:
                    info[labels["model"]] = labels
                case "headrace_model_score" if math.isfinite(sample.value):
                    key = labels["model"], labels.get("window", "all")
                    scores.setdefault(key, {})[labels["metric"]] = sample.value
                case "headrace_model_updates":
                    updates[labels["model"]] = int(sample.value)
                case "headrace_model_evidence":
                    evidence[labels["model"]] = sample.value
    candidates = tuple(
        Candidate(
            name=name,
            version=int(labels.get("version", "0")),
            kind=labels.get("kind", ""),
            alias=labels.get("alias", ""),
            labels=updates.get(name, 0),
            scores=scores.get((name, "all"), {}),
            recent=scores.get((name, "recent"), {}),
            evidence=evidence.get(name),
        )
        for name, labels in info.items()
    )
    return WorkerPage(
        joined=totals["joined"],
        learned=totals["headrace_examples_total"],
        dead_letters=totals["headrace_dead_letters_total"],
        lag=totals["headrace_consumer_lag_records"],
        candidates=tuple(sorted(candidates, key=lambda one: (one.alias != "champion", one.name))),
    )


@dataclass
class ServedLoss:
    """Brier loss of the answers that one model gave, against labels the demo itself published."""

    answers: int = 0
    total: float = 0.0

    @property
    def mean(self) -> float:
        """Mean loss, 0.0 where nothing was answered."""
        return self.total / self.answers if self.answers else 0.0


@dataclass
class Tally:
    """Events out, answers in.  Bounded by the sample: it ends.

    `labels` is the truth by event id, known to the demo from the start and used only to
    judge answers after the fact.
    """

    truth: Mapping[str, bool]
    events: int = 0
    labels: int = 0
    answers: int = 0
    superseded: int = 0
    """Records that the claims rule drops: a retry's repeat, or an owner's that had been replaced."""
    first_answer_s: float | None = None
    simulated_ms: int = 0
    """Time of the latest record published, on the sample's own clock."""
    decisions: list[Decision] = field(default_factory=list)
    served: dict[str, ServedLoss] = field(default_factory=dict)
    latencies_ms: list[float] = field(default_factory=list)
    unasked: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    _sent_s: dict[str, float] = field(default_factory=dict)
    _answered: set[str] = field(default_factory=set)
    _recent_ms: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_MAX))
    _delays_ms: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT_MAX))

    def event_sent(self, event_id: str, event_time: int, now_s: float) -> None:
        """An event went out at wall time `now_s`."""
        self.events += 1
        self.simulated_ms = max(self.simulated_ms, event_time)
        self._sent_s[event_id] = now_s

    def label_sent(self, label_time: int, event_time: int) -> None:
        """A label went out; both times are on the sample's clock."""
        self.labels += 1
        self.simulated_ms = max(self.simulated_ms, label_time)
        self._delays_ms.append(label_time - event_time)

    def answered(self, answer: Answer, now_s: float) -> None:
        """A prediction came back at wall time `now_s`."""
        self.answers += 1
        if self.first_answer_s is None:
            self.first_answer_s = now_s
        if answer.event_id in self._answered:
            self.repeated.append(answer.event_id)
            return
        sent = self._sent_s.pop(answer.event_id, None)
        if sent is None:
            self.unasked.append(answer.event_id)
            return
        self._answered.add(answer.event_id)
        latency = (now_s - sent) * 1e3
        self.latencies_ms.append(latency)
        self._recent_ms.append(latency)
        loss = brier(self.truth[answer.event_id], answer.prediction_score)
        if loss is not None:
            served = self.served.setdefault(answer.model_name, ServedLoss())
            served.answers += 1
            served.total += loss

    def not_counted(self) -> None:
        """A prediction record came that does not count."""
        self.superseded += 1

    def decided(self, decision: Decision) -> None:
        """A decision record came in."""
        if len(self.decisions) < DECISIONS_MAX:
            self.decisions.append(decision)

    @property
    def waiting(self) -> int:
        """Events that went out and have no answer yet."""
        return len(self._sent_s)

    @property
    def swaps(self) -> list[Decision]:
        """The promotions among the decisions, in order."""
        return [decision for decision in self.decisions if decision.type == "model.promoted"]

    @property
    def label_delay_ms(self) -> float | None:
        """Median delay of the latest labels, None before the first."""
        return statistics.median(self._delays_ms) if self._delays_ms else None

    def recent_latency_ms(self) -> tuple[float, float] | None:
        """Return the median and 99th percentile of the latest answers, None before the first."""
        return percentiles(self._recent_ms)

    def latency_ms(self) -> tuple[float, float] | None:
        """Return the median and 99th percentile of all answers, None before the first."""
        return percentiles(self.latencies_ms)

    def complaint(self) -> str | None:
        """Say what is wrong with the answers, or None where each event has exactly one."""
        parts = []
        if self._sent_s:
            parts.append(f"{len(self._sent_s):,} events without a prediction ({_some(list(self._sent_s))})")
        if self.repeated:
            parts.append(f"{len(self.repeated):,} predictions repeated ({_some(self.repeated)})")
        if self.unasked:
            parts.append(f"{len(self.unasked):,} predictions for no event ({_some(self.unasked)})")
        return "; ".join(parts) or None


def percentiles(values: list[float] | deque[float]) -> tuple[float, float] | None:
    """Return median and 99th percentile (nearest rank), None of nothing.

    >>> percentiles([float(n) for n in range(1, 101)])
    (50.0, 99.0)
    """
    if not values:
        return None
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2], ordered[(len(ordered) * 99 + 99) // 100 - 1]


def _some(ids: list[str]) -> str:
    named = ", ".join(ids[:EXAMPLES_OF_TROUBLE_MAX])
    return named if len(ids) <= EXAMPLES_OF_TROUBLE_MAX else f"{named}, ..."
