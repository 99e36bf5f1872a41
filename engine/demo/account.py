"""What the demo knows: what it published, what came back, what the worker says of itself.

Lives here: counting, matching and reading a page of metrics.  Never here: the screen
(`view.py`), clocks, the broker, processes (`command.py`).

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

from engine.offline.dead_letters import DeadLetters, letter_lines
from operators.race.losses import brier
from topics.messages import Decision, Score

__all__ = ["Answer", "Candidate", "ServedLoss", "Tally", "WorkerPage", "read_page"]

RECENT_MAX = 2_000
"""Label delays behind the median on the screen: about the last seconds of a run."""
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
    latency_ms: tuple[float, float] | None = None
    """Median and 99th percentile from a record's poll to its prediction's send; None before the first."""
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
    durations: list[tuple[float, float]] = []
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
                case "headrace_prediction_duration_seconds_bucket":
                    durations.append((float(labels["le"]), sample.value))
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
        latency_ms=_percentiles_ms(durations),
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
    dead_letters: DeadLetters = field(default_factory=DeadLetters)
    served: dict[str, ServedLoss] = field(default_factory=dict)
    unasked: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    _waiting: set[str] = field(default_factory=set)
    _answered: set[str] = field(default_factory=set)
    _delays_ms: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT_MAX))

    def event_sent(self, event_id: str, event_time: int) -> None:
        """An event went out; its time is on the sample's clock."""
        self.events += 1
        self.simulated_ms = max(self.simulated_ms, event_time)
        self._waiting.add(event_id)

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
        if answer.event_id not in self._waiting:
            self.unasked.append(answer.event_id)
            return
        self._waiting.remove(answer.event_id)
        self._answered.add(answer.event_id)
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
        return len(self._waiting)

    @property
    def swaps(self) -> list[Decision]:
        """The promotions among the decisions, in order."""
        return [decision for decision in self.decisions if decision.type == "model.promoted"]

    @property
    def label_delay_ms(self) -> float | None:
        """Median delay of the latest labels, None before the first."""
        return statistics.median(self._delays_ms) if self._delays_ms else None

    def refused(self) -> list[str]:
        """Return one line for each stage of dead letters, with what the first of them said."""
        return letter_lines(self.dead_letters.report({}))

    def complaint(self) -> str | None:
        """Say what is wrong with the answers, or None where each event has exactly one."""
        parts = []
        if self._waiting:
            parts.append(
                f"{len(self._waiting):,} events without a prediction ({_some(sorted(self._waiting))})"
            )
        if self.repeated:
            parts.append(f"{len(self.repeated):,} predictions repeated ({_some(self.repeated)})")
        if self.unasked:
            parts.append(f"{len(self.unasked):,} predictions for no event ({_some(self.unasked)})")
        return "; ".join(parts) or None


def _percentiles_ms(buckets: list[tuple[float, float]]) -> tuple[float, float] | None:
    """Return median and 99th percentile of a cumulative histogram in seconds, linear within a bucket.

    As Prometheus's `histogram_quantile`: beyond the last finite bound it is that bound.

    >>> _percentiles_ms([(0.01, 50.0), (0.02, 98.0), (0.1, 100.0), (float("inf"), 100.0)])
    (10.0, 60.0)
    """
    if not buckets or not buckets[-1][1]:
        return None
    return _quantile_ms(buckets, 0.5), _quantile_ms(buckets, 0.99)


def _quantile_ms(buckets: list[tuple[float, float]], share: float) -> float:
    wanted, low, below = share * buckets[-1][1], 0.0, 0.0
    for high, count in buckets:
        if count >= wanted:
            inside = (wanted - below) / (count - below) if count > below else 1.0
            return 1e3 * (low if math.isinf(high) else low + (high - low) * inside)
        low, below = high, count
    return 1e3 * low


def _some(ids: list[str]) -> str:
    named = ", ".join(ids[:EXAMPLES_OF_TROUBLE_MAX])
    return named if len(ids) <= EXAMPLES_OF_TROUBLE_MAX else f"{named}, ..."
