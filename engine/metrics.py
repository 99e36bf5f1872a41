"""What a worker tells Prometheus.

Lives here: the table of counters, gauges and histograms, how a batch of latencies becomes one, and the text
of a scrape.  Never here: the web server (`app.py`), who counts, what is being measured.

Strategy: every label value that a pipeline can count stands at 0 from the first scrape: `increase()` sees the
first dead letter.  State machines count into plain `Counter`s by (metric, label); the loops absorb
them once per run; a scrape reads everything in one pass.  So no event pays for a metric
object, and a partition that has left leaves no stale series.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from importlib.metadata import version
from typing import NamedTuple, get_args

import numpy as np
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from engine.definition.candidates import scoring_models
from engine.definition.pipeline import Pipeline
from engine.kafka.client import unanswered_s
from engine.monitor_view import MonitorFigures
from operators.drift.triage import ShiftKind
from operators.join.completeness import AGES
from operators.language.fields import nodes
from operators.language.plan import FeaturePlan
from operators.language.transforms import Apply
from operators.monitor.acks import Precision
from operators.race.routing import arms_of
from operators.stopwatch import Stopwatch
from topics.messages import AlertChannel, AlertState

__all__ = [
    "COUNTERS",
    "BatchHistogram",
    "CounterFamily",
    "Metrics",
    "ModelStatus",
    "RacesStatus",
    "ShiftStatus",
    "SnapshotStatus",
    "Status",
]

LATENCY_BUCKETS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
DELAY_BUCKETS_S = (1.0, 10.0, 60.0, 600.0, 3_600.0, 6 * 3_600.0, 86_400.0, 7 * 86_400.0, 30 * 86_400.0)

Counts = Counter[tuple[str, str]]

ALERT_EVENTS = (*get_args(AlertState), "left_out")
GATHERED_MAX = 4_000
"""Values that wait to be sorted into buckets together: numpy's calls cost more than the values of a run."""


class BatchHistogram:
    """A Prometheus histogram of times in seconds that takes the values of a whole run at once.

    >>> histogram = BatchHistogram([0.1, 1.0])
    >>> histogram.observe_ms([5, 100, 2_000, -3])
    >>> [(s.labels["le"], s.value) for s in histogram.family("wait_seconds", "").samples[:3]]
    [('0.1', 3.0), ('1.0', 3.0), ('+Inf', 4.0)]
    """

    def __init__(self, buckets: Sequence[float]) -> None:
        self._bounds = np.asarray(buckets, dtype=np.float64)
        self._counts = np.zeros(len(buckets) + 1, dtype=np.int64)
        self._sum = 0.0
        self._gathered_ms: list[int] = []

    def observe_ms(self, values_ms: Sequence[int]) -> None:
        """Count times given in milliseconds; one below zero, of clocks that differ, counts as zero."""
        self._gathered_ms += values_ms
        if len(self._gathered_ms) >= GATHERED_MAX:
            self._count()

    def _count(self) -> None:
        """Sort the gathered values into buckets."""
        values = np.maximum(0.0, np.asarray(self._gathered_ms, dtype=np.float64) / 1_000)
        self._gathered_ms.clear()
        places = np.searchsorted(self._bounds, values, side="left")
        self._counts += np.bincount(places, minlength=len(self._counts))
        self._sum += float(values.sum())

    def observe_same(self, value: float, count: int) -> None:
        """Count one value `count` times."""
        self._counts[int(np.searchsorted(self._bounds, value, side="left"))] += count
        self._sum += value * count

    def read(self) -> tuple[list[float], list[int]]:
        """Return the upper bounds of the buckets in seconds, and how many lie in each and beyond the last."""
        self._count()
        return self._bounds.tolist(), self._counts.tolist()

    def family(self, name: str, documentation: str) -> HistogramMetricFamily:
        """Return the histogram as Prometheus expects it: cumulative buckets, `+Inf` last."""
        self._count()
        cumulative = np.cumsum(self._counts)
        names = [*(repr(float(bound)) for bound in self._bounds), "+Inf"]
        pairs = [(bound, float(count)) for bound, count in zip(names, cumulative, strict=True)]
        return HistogramMetricFamily(name, documentation, buckets=pairs, sum_value=self._sum)


class ModelStatus(NamedTuple):
    """The values of one candidate in a scrape."""

    name: str
    version: int
    class_name: str
    alias: str
    updates: int
    evidence: float
    correlation: float
    """Of neighbouring blocks of its duel with the champion."""


class SnapshotStatus(NamedTuple):
    """What a scrape tells of the models that a leader publishes and others serve; all 0 where nobody does."""

    age_s: float = 0.0
    """Of the models that are served here; 0 on the leader."""
    bytes: int = 0
    """Of the last one that was published or served: of the models that had changed."""
    seconds: float = 0.0
    """For which the loop stood still for it."""
    interval_s: float = 0.0
    """Between two of them, at least."""


class RacesStatus(NamedTuple):
    """What a scrape tells of races per key; all 0 where there is one race for all."""

    begun: int = 0
    """Races that have begun, of the partitions owned."""
    in_memory: int = 0


class ShiftStatus(NamedTuple):
    """What a scrape tells of watching for shift; nothing where nobody watches, or another process leads."""

    verdict: str = ""
    """Of the shift that lasts; empty for none."""
    evidence: float = 0.0
    """Of the budget: at 1 a verdict opens."""
    unusual: Mapping[str, float] = {}
    """By feature, and by what is watched of all together: normal score in the last block."""
    silent: int = 0
    """Partitions that stopped sending."""


class Status(NamedTuple):
    """The values that a scrape reads at once."""

    lag: dict[tuple[str, int], int]
    pending: int
    """Predictions and early labels held for joining."""
    examples: int
    """Examples learned."""
    unlearned: int
    """Records of the examples log that no model here has learned, as during a pause."""
    checkpoint_time_s: float
    partitions: int
    leading: bool
    paused: bool
    models: Sequence[ModelStatus]
    scores: dict[tuple[str, str, str], float]
    """(model, metric, window) -> value: `served` is a model here, window is `all` or `recent`."""
    pinned: bool = False
    champion_quarantined: bool = False
    """Whether the champion has failed with no candidate to succeed it: the prior answers."""
    shares: tuple[tuple[str, float], ...] = ()
    """Share of the events that each candidate is picked for; empty where the champion answers all."""
    policy_revision: int = 0
    """Of the table with these shares."""
    learning_log: tuple[tuple[str, float], ...] = ()
    """Share of the examples log that each candidate has learned which waits to enter."""
    window_keys: int = 0
    """Keys that windows hold, counted once in each group of windows."""
    unsaved: int = 0
    """Events answered since the last checkpoint."""
    store_outage_s: float = 0.0
    """For how long a checkpoint has waited for a store that cannot be used."""
    snapshot: SnapshotStatus = SnapshotStatus()
    stalled_s: float = 0.0
    """For how long there has been work and no progress."""
    races: RacesStatus = RacesStatus()
    shift: ShiftStatus | None = None
    """None where this process does not tell."""
    figures: MonitorFigures = MonitorFigures()
    """What monitors have seen; of the leader alone."""
    firing: tuple[tuple[str, int], ...] = ()
    """How many alerts fire that this worker tells of, by policy."""
    acked: tuple[tuple[str, Precision], ...] = ()
    """What people have said of alerts, by policy; of the leader alone."""


class Metrics(Collector):
    """All metrics of one worker process."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.counts: Counts = Counter(
            {(family.counted_as, value): 0 for family in COUNTERS for value in family.values(pipeline)}
        )
        self.seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
        """As `counts`, of what is measured."""
        self.prediction_duration = BatchHistogram(LATENCY_BUCKETS_S)
        self.end_to_end = BatchHistogram(LATENCY_BUCKETS_S)
        self.predict_duration = BatchHistogram(LATENCY_BUCKETS_S)
        self.label_delay = BatchHistogram(DELAY_BUCKETS_S)
        self.checkpoint_duration = BatchHistogram(LATENCY_BUCKETS_S)
        self.status: Callable[[], Status] | None = None
        self.checkpoint_time_s = 0.0
        self._pipeline = pipeline.name
        self._defined = frozenset(pipeline.candidates)
        self._racing: AbstractSet[str] = frozenset()
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    def absorb(self, counts: Counts) -> None:
        """Add the counts of a state machine, and clear them there."""
        if counts:
            self.counts.update(counts)
            counts.clear()

    def absorb_seconds(self, stopwatch: Stopwatch, racing: AbstractSet[str]) -> None:
        """Add the seconds of a stopwatch, and clear them there; `racing` are the models that there are."""
        for step, seconds in stopwatch.steps.items():
            self.seconds["step_seconds", step] += seconds
        for (step, name), seconds in stopwatch.models.items():
            self.seconds["model_seconds", f"{step} {name}"] += seconds
        stopwatch.steps.clear()
        stopwatch.models.clear()
        if racing != self._racing:
            self._racing = frozenset(racing)
            for sums in (self.counts, self.seconds):
                for counted in [counted for counted in sums if self._is_gone(*counted)]:
                    del sums[counted]

    def _is_gone(self, counted_as: str, value: str) -> bool:
        """Return whether a series is of a model that has left the race and is not one of the file."""
        labels = MODEL_LABELS.get(counted_as, ())
        named = dict(zip(labels, value.split(" ", len(labels) - 1), strict=False))
        models = {named[label] for label in ("model", "blend") if label in named}
        return not models <= self._defined.union(self._racing)

    def exposition(self) -> bytes:
        """Return the text that Prometheus scrapes."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield every metric; called by the registry at each scrape."""
        info = GaugeMetricFamily(
            "headrace_build_info", "Always 1; the labels tell.", labels=["version", "river", "pipeline"]
        )
        info.add_metric([version("headrace"), version("river"), self._pipeline], 1.0)
        yield info
        counts = sorted({**self.counts, **self.seconds}.items())
        for counted_as, name, documentation, labels, _ in COUNTERS:
            family = CounterMetricFamily(name, documentation, labels=labels)
            for (counted, value), count in counts:
                if counted == counted_as:
                    family.add_metric(value.split(" ", len(labels) - 1), count)
            yield family
        yield self.prediction_duration.family(
            "headrace_prediction_duration_seconds", "From a record's poll to its prediction's send."
        )
        yield self.end_to_end.family(
            "headrace_end_to_end_latency_seconds", "From a record's timestamp to its prediction's send."
        )
        yield self.predict_duration.family(
            "headrace_predict_duration_seconds", "From a valid request to /predict to what it was told."
        )
        yield self.label_delay.family(
            "headrace_label_delay_seconds", "From an event to its label, in event time."
        )
        yield self.checkpoint_duration.family(
            "headrace_checkpoint_duration_seconds", "From a checkpoint's capture to its commit."
        )
        if self.status is not None:
            yield from _gauges(self.status())


def _gauges(status: Status) -> Iterator[Metric]:
    lag = GaugeMetricFamily(
        "headrace_consumer_lag_records", "Records not read yet.", labels=["topic", "partition"]
    )
    for (topic, partition), records in sorted(status.lag.items()):
        lag.add_metric([topic, str(partition)], records)
    yield lag
    for name, documentation, value in (
        ("headrace_pending_predictions", "Answered events held until their horizon.", status.pending),
        ("headrace_window_keys", "Keys that windows hold, in each group of windows.", status.window_keys),
        ("headrace_partitions", "Event partitions owned.", status.partitions),
        ("headrace_leader", "1 on the worker that writes decisions and model scores.", int(status.leading)),
        ("headrace_learning_paused", "1 while learning is paused.", int(status.paused)),
        ("headrace_champion_pinned", "1 while the champion is pinned.", int(status.pinned)),
        (
            "headrace_champion_quarantined",
            "1 while no model is left and the prior answers.",
            int(status.champion_quarantined),
        ),
        (
            "headrace_examples_unlearned",
            "Logged examples not learned yet, a pause included.",
            status.unlearned,
        ),
        (
            "headrace_broker_outage_seconds",
            "How long no broker has answered; 0 while one does.",
            unanswered_s(),
        ),
        (
            "headrace_store_outage_seconds",
            "How long a checkpoint waits for a store that cannot be used.",
            status.store_outage_s,
        ),
        ("headrace_unsaved_events", "Events answered that no checkpoint holds.", status.unsaved),
        ("headrace_stalled_seconds", "How long there has been work and no progress.", status.stalled_s),
        (
            "headrace_checkpoint_last_success_timestamp_seconds",
            "When the last checkpoint was written.",
            status.checkpoint_time_s,
        ),
        (
            "headrace_snapshot_age_seconds",
            "Age of the models served here; 0 on the leader.",
            status.snapshot.age_s,
        ),
        ("headrace_snapshot_bytes", "Bytes of the models in the last snapshot.", status.snapshot.bytes),
        (
            "headrace_snapshot_seconds",
            "Time the loop stood still for the last snapshot.",
            status.snapshot.seconds,
        ),
        (
            "headrace_snapshot_interval_seconds",
            "Time between two snapshots, at least.",
            status.snapshot.interval_s,
        ),
        ("headrace_races", "Races per key that have begun, of the partitions owned.", status.races.begun),
        ("headrace_races_in_memory", "Races per key in memory.", status.races.in_memory),
    ):
        yield GaugeMetricFamily(name, documentation, value=value)
    yield CounterMetricFamily("headrace_examples", "Examples learned.", value=status.examples)
    yield from _alert_gauges(status)
    yield from _model_gauges(status)
    yield from _shift_gauges(status.shift)
    yield from _monitor_gauges(status.figures)


def _shift_gauges(shift: ShiftStatus | None) -> Iterator[Metric]:
    verdict = GaugeMetricFamily(
        "headrace_shift_open", "1 while such a shift lasts, from the leader alone.", labels=["verdict"]
    )
    unusual = GaugeMetricFamily(
        "headrace_shift_unusual",
        "How unusual the last block was: standard deviations.",
        labels=["statistic"],
    )
    evidence = GaugeMetricFamily("headrace_shift_evidence", "Of the budget; at 1 a verdict opens.", labels=[])
    silent = GaugeMetricFamily(
        "headrace_shift_silent_partitions",
        "Partitions of events that stopped sending.",
        labels=[],
    )
    if shift is not None:
        for kind in get_args(ShiftKind):
            verdict.add_metric([kind], float(kind == shift.verdict))
        for name, score in shift.unusual.items():
            unusual.add_metric([name], score)
        evidence.add_metric([], shift.evidence)
        silent.add_metric([], shift.silent)
    yield from (verdict, unusual, evidence, silent)


def _monitor_gauges(figures: MonitorFigures) -> Iterator[Metric]:
    told = GaugeMetricFamily(
        "headrace_monitor",
        "What monitors see, from the leader alone.",
        labels=["monitor", "figure", "subject"],
    )
    for labels, value in figures.values.items():
        told.add_metric(labels, value)
    left_out = GaugeMetricFamily(
        "headrace_monitor_left_out", "Figures for which there is no series.", labels=["monitor"]
    )
    for monitor, count in figures.left_out.items():
        left_out.add_metric([monitor], count)
    yield from (told, left_out)


def _alert_gauges(status: Status) -> Iterator[Metric]:
    firing = GaugeMetricFamily(
        "headrace_alerts_firing", "Alerts that fire, by who tells of them.", labels=["policy"]
    )
    for policy, count in status.firing:
        firing.add_metric([policy], count)
    acked = GaugeMetricFamily("headrace_alerts_acked", "Alerts that somebody has judged.", labels=["policy"])
    precision = GaugeMetricFamily(
        "headrace_alerts_precision", "Share of them that told of something.", labels=["policy"]
    )
    for policy, judged in status.acked:
        acked.add_metric([policy], judged.acked)
        precision.add_metric([policy], judged.share)
    yield from (firing, acked, precision)


def _model_gauges(status: Status) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        "headrace_model_info", "Always 1; the labels tell.", labels=["model", "version", "kind", "alias"]
    )
    updates = GaugeMetricFamily("headrace_model_updates", "Labels learned.", labels=["model"])
    evidence = GaugeMetricFamily(
        "headrace_model_evidence", "Evidence against the champion; 1 swaps.", labels=["model"]
    )
    correlation = GaugeMetricFamily(
        "headrace_evidence_correlation",
        "Correlation of neighbouring blocks of its duel.",
        labels=["model"],
    )
    scores = GaugeMetricFamily(
        "headrace_model_score",
        "River metrics, from the leader alone.",
        labels=["model", "metric", "window"],
    )
    for model in status.models:
        info.add_metric([model.name, str(model.version), model.class_name, model.alias], 1.0)
        updates.add_metric([model.name], model.updates)
        evidence.add_metric([model.name], model.evidence)
        correlation.add_metric([model.name], model.correlation)
    for labels, value in status.scores.items():
        scores.add_metric(labels, value)
    shares = GaugeMetricFamily(
        "headrace_serving_share", "Share of the events that it is picked for.", labels=["model"]
    )
    for name, share in status.shares:
        shares.add_metric([name], share)
    progress = GaugeMetricFamily(
        "headrace_candidate_log_share",
        "Share of the log learned by one that waits to enter.",
        labels=["model"],
    )
    for name, share in status.learning_log:
        progress.add_metric([name], share)
    yield from (info, updates, evidence, correlation, scores, shares, progress)
    yield GaugeMetricFamily(
        "headrace_policy_revision", "Of the serving policy's table.", value=status.policy_revision
    )


# -- counters -------------------------------------------------------------------------------------

MODEL_STEPS = ("score", "learn", "score_and_learn")
"""What a model does; both, row by row, where labels come inside events."""


class CounterFamily(NamedTuple):
    """One counter: the name it is counted under, what Prometheus sees, the label values that exist from the
    start."""

    counted_as: str
    """The name under which scorers, learner and loops count."""
    name: str
    documentation: str
    labels: tuple[str, ...]
    values: Callable[[Pipeline], Iterable[str]]
    """Every value that the pipeline can count; those of several labels are parted by a space."""


def _always(*values: str) -> Callable[[Pipeline], Iterable[str]]:
    return lambda _: values


def _functions(plan: FeaturePlan) -> Iterator[str]:
    """Return the names of the user's functions that features call."""
    for _, expression in plan.features:
        yield from (part.name for part in nodes(expression) if isinstance(part, Apply))


def _left_out(pipeline: Pipeline) -> Iterator[str]:
    """Return every blend with every model whose values may be too far out for it."""
    if pipeline.task == "regression":
        scoring = scoring_models(pipeline.estimators)
        yield from (f"{blend} {name}" for blend in pipeline.models.keys() - scoring for name in scoring)


COUNTERS = (
    CounterFamily(
        "stores_behind",
        "headrace_stores_behind",
        "Takeovers with a store behind the logs, by what it held.",
        ("held",),
        _always("older", "empty"),
    ),
    CounterFamily(
        "takeovers",
        "headrace_takeovers",
        "Assigned partitions, by how they were taken over.",
        ("how",),
        _always("claimed", "kept"),
    ),
    CounterFamily(
        "checkpoints_damaged",
        "headrace_checkpoints_damaged",
        "Damaged last checkpoints, the one before taken.",
        ("role",),
        _always("scorer", "learner"),
    ),
    CounterFamily(
        "events",
        "headrace_events",
        "Valid events read, by what became of them.",
        ("outcome",),
        _always("accepted", "late", "duplicate", "conflicting", "beyond_horizon"),
    ),
    CounterFamily(
        "key_mismatches",
        "headrace_key_mismatches",
        "Records under another key than their own.",
        ("kind",),
        _always("event", "label"),
    ),
    CounterFamily(
        "rekeyed",
        "headrace_rekeyed_events",
        "Events taken by windows of other keys, in time or late.",
        ("turn",),
        _always("in_time", "late"),
    ),
    CounterFamily(
        "predictions",
        "headrace_predictions",
        "Predictions sent, by who answered.",
        ("served_by",),
        _always("champion", "arm", "previous", "backup", "prior", "again"),
    ),
    CounterFamily(
        "abstained",
        "headrace_predictions_abstained",
        "Predictions that say `abstain`, by why.",
        ("reason",),
        lambda pipeline: () if pipeline.abstain_below is None else ("confidence",),
    ),
    CounterFamily(
        "arms",
        "headrace_arm_predictions",
        "Predictions as the serving policy picked, by model.",
        ("model",),
        lambda pipeline: arms_of(pipeline.serving),
    ),
    CounterFamily(
        "labels",
        "headrace_labels",
        "Labels, by what became of them.",
        ("outcome",),
        _always(
            "joined",
            "implicit",
            "weak",
            "collected",
            "combined",
            "assumed",
            "revised",
            "early",
            "late",
            "duplicate",
            "conflicting",
            "corrected",
            "outdated",
            "crowded",
            "unmatched",
            "given_up",
            "ahead",
        ),
    ),
    CounterFamily(
        "aged",
        "headrace_predictions_aged",
        "Predictions past an age, in parts of the wait.",
        ("age",),
        lambda _: [f"{age:g}" for age in AGES],
    ),
    CounterFamily(
        "aged_labelled",
        "headrace_predictions_labelled",
        "Of them, those with a label by then.",
        ("age",),
        lambda _: [f"{age:g}" for age in AGES],
    ),
    CounterFamily(
        "queries",
        "headrace_queries",
        "Doubtful events, by whether their label was asked for.",
        ("outcome",),
        _always("sent", "labelled", "expired", "late"),
    ),
    CounterFamily(
        "weak_votes",
        "headrace_weak_votes",
        "What labelling functions said, by outcome.",
        ("outcome", "function"),
        lambda pipeline: (
            f"{outcome} {one.name}"
            for one in pipeline.labels.weak
            for outcome in ("voted", "abstained", "failed", "right", "wrong", "silent")
        ),
    ),
    CounterFamily(
        "examples_left_out",
        "headrace_examples_left_out",
        "Labelled events not to be learned, by why.",
        ("reason",),
        _always("share", "over_source_cap", "quarantined_source"),
    ),
    CounterFamily(
        "sources",
        "headrace_label_sources",
        "Sources of labels that found no room or lost theirs.",
        ("outcome",),
        _always("evicted", "no_room"),
    ),
    CounterFamily(
        "races",
        "headrace_race_moves",
        "Races per key that began, left memory, or came back.",
        ("move",),
        _always("begun", "evicted", "restored"),
    ),
    CounterFamily(
        "predictions_dropped",
        "headrace_predictions_dropped",
        "Predictions forgotten, by reason.",
        ("reason",),
        _always("expired", "given_up", "forgotten"),
    ),
    CounterFamily(
        "window_evictions",
        "headrace_window_evictions",
        "Entries and keys that left windows early.",
        ("reason",),
        _always("max_events_per_key", "idle"),
    ),
    CounterFamily(
        "dead_letters",
        "headrace_dead_letters",
        "Records refused, by the step that refused.",
        ("stage",),
        _always("decode", "label", "time", "duplicate", "join", "rule", "skip", "erase", "watermark"),
    ),
    CounterFamily(
        "watermarks",
        "headrace_watermark_moves",
        "Records for quiet partitions, by outcome.",
        ("outcome",),
        _always("written", "refused", "moved"),
    ),
    CounterFamily(
        "letters_cut",
        "headrace_dead_letters_cut",
        "Dead letters that were cut, by why.",
        ("reason",),
        _always("size"),
    ),
    CounterFamily(
        "page_refusals",
        "headrace_page_refusals",
        "Requests and connections of the pages refused, by why.",
        ("reason",),
        _always("token", "slow", "crowded", "malformed", "streams", "behind"),
    ),
    CounterFamily(
        "status_records",
        "headrace_status_records",
        "Records of the status topic, by what became of them.",
        ("outcome",),
        _always("published", "failed", "unreadable", "left_out"),
    ),
    CounterFamily(
        "predict_requests",
        "headrace_predict_requests",
        "Requests to /predict, by what came of them.",
        ("outcome",),
        _always("answered", "invalid", "deadline", "crowded", "failed", "unpublished"),
    ),
    CounterFamily(
        "rule_hits",
        "headrace_rule_hits",
        "Broken rules, by what was done and rule.",
        ("action", "rule"),
        lambda pipeline: (f"{rule.action} {rule.name}" for rule in pipeline.rules),
    ),
    CounterFamily(
        "function_failures",
        "headrace_function_failures",
        "Calls of apply that failed, by function.",
        ("function",),
        lambda pipeline: _functions(pipeline.plan),
    ),
    CounterFamily(
        "alerts",
        "headrace_alerts",
        "Alert records, by what they say.",
        ("policy", "event"),
        lambda pipeline: (f"{alert.name} {event}" for alert in pipeline.policies for event in ALERT_EVENTS),
    ),
    CounterFamily(
        "alert_deliveries",
        "headrace_alert_deliveries",
        "Alerts by channel and outcome.",
        ("channel", "outcome"),
        lambda pipeline: (
            f"{channel} {outcome}"
            for channel in (get_args(AlertChannel) if pipeline.policies else ())
            for outcome in ("delivered", "retried", "refused", "dropped")
        ),
    ),
    CounterFamily(
        "model_failures",
        "headrace_model_failures",
        "Candidates that raised or gave no number.",
        ("step", "model"),
        lambda pipeline: (f"{step} {name}" for name in pipeline.models for step in ("score", "learn")),
    ),
    CounterFamily(
        "candidates_refused",
        "headrace_candidates_refused",
        "Candidates that failed while learning the log.",
        ("model",),
        lambda pipeline: (name for name, one in pipeline.field.candidates.items() if one.warms),
    ),
    CounterFamily(
        "blend_left_out",
        "headrace_blend_left_out",
        "Values too far out to have a say in a blend.",
        ("blend", "model"),
        _left_out,
    ),
    CounterFamily(
        "shift_blocks",
        "headrace_shift_blocks",
        "Blocks of the watcher, by what became of them.",
        ("outcome",),
        _always("folded", "late", "repeated", "foreign", "small"),
    ),
    CounterFamily(
        "drifts",
        "headrace_drift_detections",
        "Drift alarms, by detector.",
        ("detector", "direction", "subject"),
        lambda pipeline: (
            f"{type(drift.detector).__name__} {direction} {drift.on}"
            for drift in pipeline.field.drift
            for direction in (("worse", "better") if drift.on == "loss" else ("worse",))
        ),
    ),
    CounterFamily(
        "promotions",
        "headrace_promotions",
        "Champion swaps, by reason.",
        ("reason",),
        _always("evidence", "quarantine", "command", "file", "canary", "split", "switchback"),
    ),
    CounterFamily(
        "challengers",
        "headrace_challengers",
        "Challengers to be started, by what became of it.",
        ("outcome",),
        _always("started", "field_young", "cooldown", "nobody_to_clone"),
    ),
    CounterFamily(
        "erasures",
        "headrace_erasures",
        "Keys that were erased.",
        ("outcome",),
        _always("done"),
    ),
    CounterFamily(
        "commands",
        "headrace_commands",
        "Commands, by what became of them.",
        ("outcome",),
        _always("done", "refused"),
    ),
    CounterFamily(
        "snapshots",
        "headrace_snapshots",
        "Snapshots of the models, by what became of them.",
        ("outcome",),
        _always("published", "served", "signature", "older", "field", "model", "unavailable"),
    ),
    CounterFamily(
        "lookups",
        "headrace_lookups",
        "Static feature look-ups, by what was found.",
        ("outcome",),
        _always("cached", "found", "missing", "unavailable"),
    ),
    CounterFamily(
        "feature_writes",
        "headrace_feature_writes",
        "Keys' features served to others, by outcome.",
        ("outcome",),
        _always("written", "older", "failed", "dropped"),
    ),
    CounterFamily(
        "intake_pauses",
        "headrace_intake_pauses",
        "Times that no more events were taken, by why.",
        ("reason",),
        _always("unsaved"),
    ),
    CounterFamily(
        "model_seconds",
        "headrace_model_seconds",
        "Time of models, by what they did.",
        ("step", "model"),
        lambda pipeline: (f"{step} {name}" for name in pipeline.models for step in MODEL_STEPS),
    ),
    CounterFamily(
        "step_seconds",
        "headrace_step_seconds",
        "Time of steps; `send` is waited for.",
        ("step",),
        _always("decode", "features", "score", "answer", "shadows", "join", "learn", "watch", "send", "page"),
    ),
)
"""All of them; seconds are counted by `operators/stopwatch.py`."""
MODEL_LABELS = {family.counted_as: family.labels for family in COUNTERS if "model" in family.labels}
"""The labels of counters that have series of models: challengers come and go, so their series go too."""
