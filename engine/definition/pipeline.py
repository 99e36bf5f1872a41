"""The user's definition, checked when loaded.

Lives here: `Pipeline`, every refusal a definition can meet, the definition's digest by part, and how two of
them differ.
Never here: where its events and labels come from (`streams.py`), loading the file (`file.py`),
running anything.

A definition is data.  River and msgspec objects pass through untouched, except that models
are cloned: River pipelines can share steps by accident, and two candidates that share a
scaler would teach each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from river import drift, metrics

from engine.definition.candidates import (
    check_detectors,
    check_model_classes,
    checked_candidates,
    task_of,
)
from engine.definition.keyed import check_per
from engine.definition.monitoring import check_monitors, monitor_settings
from engine.definition.notebook import pipeline_html
from engine.definition.streams import Labels, Topic
from engine.definition.weak import check_weak, weak_text
from operators.drift.detectors import Drift
from operators.drift.watch import Watch, check_watch
from operators.join.queries import Queries
from operators.language.alerts import Alert, NoveltyPlan, checked_alerts, novelty_plan
from operators.language.catalogue import CatalogueEntry, FeatureContext, feature_book, features_version
from operators.language.expressions import Expression
from operators.language.plan import FeaturePlan, compile_features, text_digest
from operators.language.rules import Rule
from operators.language.transforms import Cross
from operators.language.types import event_fields
from operators.models.table import share_of
from operators.monitor.before_labels.estimate import Estimated
from operators.monitor.behaviour.importance import Importance
from operators.monitor.behaviour.model_tests import ModelTest
from operators.monitor.calibration import Calibration
from operators.monitor.fairness import Fair
from operators.monitor.feedback import Feedback
from operators.monitor.reservoir import Reservoir
from operators.monitor.slices import BINS, VALUES_MAX
from operators.monitor.worst import Worst
from operators.race.blend import OPENING, Blend, OpeningName
from operators.race.candidates import Candidate, Challenge, check_challenges
from operators.race.evidence import Promotion
from operators.race.field import REPORT_EVERY, RaceField
from operators.race.routing import (
    Canary,
    Policy,
    Serve,
    Shadow,
    check_backup,
    check_canary,
    check_guards,
    check_serving,
)
from operators.rekeying.stages import Stages, plan_stages
from operators.rules.apply import CheckedDecoder, FieldRules
from operators.rules.check import RulePlan, compile_rules
from topics.catalog import Catalog
from topics.codec import EventDecoder, LabelDecoder, label_value
from topics.durations import duration_ms
from topics.errors import CheckpointError, DefinitionError
from topics.messages import LabelValue, Task

__all__ = ["Change", "Pipeline", "check_definition"]

PER_MAX = 1_000
"""Races in memory, some tens to hundreds of KB each: `headrace check` says how large they are."""
EVENTS_PER_KEY_MAX = 100_000
"""Events one key may keep; a key that sends more is a loop or an attack, and old ones go first."""
AHEAD_DEFAULT_MS = 60_000
"""Clocks that nobody keeps differ by seconds, and by hours where their zone is wrong."""
FOLLOW_MIN_MS = 100
"""Models published more often would cost more than the learning they save."""
PART_DIGITS = 16
"""Of the digest of a part of the definition."""
SERVED_TIME = "event_time"
"""Stands beside served features."""
FEATURE_PART = "features."
"""Before the names of features among the parts of a definition; their digests are versions."""
CHANGES_NAMED_MAX = 20
"""Changes named in one message; another pipeline under the same name differs in all of them."""


@dataclass(frozen=True, eq=False)
class Pipeline:
    """One whole pipeline: events to features to models to champion.

    Raises DefinitionError with the place and the fix for anything that cannot run.

    `name`
        The first part of the names of its topics, of its state and of its consumer group.
    `events`
        The topic of events: a `Topic`.
    `labels`
        Where labels come from: a `Labels`.
    `features`
        Names and expressions, in the order in which models see them.
    `models`
        Names and River estimators, which are cloned, or a `Blend` of the others.
    `champion`
        The name of the model that serves first; None leaves it to `opening`.
    `opening`
        Who serves before anything is proven, where no champion is named: `"blend"`, as None says too, a blend
        of all, which joins the models under this name if none is defined, or `"leader"`, the one of the
        lowest loss so far.  Beside a champion it is refused.
    `drift`
        Detectors and what they watch: a `Drift` each; None is River's ADWIN on the loss.
    `promotion`
        When a challenger takes over: a `Promotion`.
    `serving`
        Who answers: `Shadow()` (the champion), a `Canary`, a `Split`, a `Switchback` or a `Bandit`.
    `deadline`
        Until when an answer is worth waiting for: a `Serve`; None waits.
    `challenges`
        Challengers that start by themselves: a `Challenge` each.
    `watch`
        How features and scores as served, and labels, are watched for shift: a `Watch`; None watches nothing.
    `metrics`
        River metrics of every model and of what was served, cloned; None takes the task's usual ones.
    `threshold`
        The binary score from which on the predicted label is true, in [0, 1].
    `topics`
        Other names of our topics by role, as in `{"predictions": "scores"}`.
    `max_events_per_key`
        How many entries one key of a window keeps; beyond, the oldest go first and are counted.
    `shadow_predictions`
        Whether the challengers' answers are sent too, to a topic of their own, for looking.
    `serve_features`
        Whether the newest features of each key are written to Redis, for other services.
    `follow`
        How often the leader publishes its models for the other workers, as in `"1s"`: it alone learns, and
        they serve what it has published.  None lets every worker learn for itself.
    `rules`
        What must hold of fields and features: a `Rule` each, applied in their order.
    `alerts`
        What somebody is told of: an `Alert` each; None is the usual ones (`usual_alerts()`), `()` none.
    `queries`
        Which events people are asked to label, on a topic of its own: a `Queries`.
    `learn_share`
        The share of the labelled events that become examples, in (0, 1], chosen by a hash of the event's id;
        for labels that come faster than one core learns.  Windows and joins see every label.
    `per`
        The events' key field, to give each of its values a race of its own: models, champion, evidence,
        metrics, drift; None is one race for all.  Examples then have as many partitions as events.
    `per_max`
        With `per`: how many races one partition has in memory; beyond, the one used longest ago is kept in
        the checkpoint until its next event.
    `slices`
        Features as served, by name or crossed (`cross("origin", "carrier")`): figures are kept apart for each
        of their values, of numbers for quantile bins.
    `reservoir`
        How many labelled examples of each class are kept for reports and `headrace explain --like`: a
        `Reservoir`; None keeps none.
    `slice_values_max`
        Categories of a feature that have a slice of their own; those that come after them are `(other)`.
    `slice_bins`
        Quantile bins of a number that has more different values than that.
    `worst`
        How worse slices are looked for that nobody named: a `Worst`; None looks as `Worst()` does where there
        are slices, and not at all where there are none.
    `tests`
        Tests that the champion is put to on a sample of live rows: an `Invariant`, `Directional` or
        `Perturbed` each.
    `importance`
        Whether the importance of features is measured: an `Importance`, True for `Importance()`, or None.
    `feedback`
        Whether the spread of what is shown is watched: a `Feedback`, or None.
    `fair`
        Bounds on the difference between groups of a protected feature: a `Fair` each.
    `calibration`
        How the calibration curves of classifiers are kept: a `Calibration`; None keeps none.
    `estimate`
        How performance is estimated before the labels come: an `Estimated`; None estimates nothing.
    `report_every`
        Examples between two records of what slices and calibration have seen, and labels of a partition
        between two of what became of them, on the decisions topic; None writes none.
    `abstain_below`
        Predictions whose score gives their label less than this chance, in (0, 1], say `abstain`; None: none
        does.
    `task`
        `"binary"`, `"multiclass"` or `"regression"`; it follows from the models where they leave it no
        choice.  Classifiers of several classes on labels of a topic need `task="multiclass"`.
    """

    name: str
    events: Topic
    labels: Labels
    features: Mapping[str, Expression]
    models: Mapping[str, Any]
    champion: str | None = None
    opening: OpeningName | None = None
    drift: Sequence[Drift] | None = None
    promotion: Promotion = field(default_factory=Promotion)
    serving: Policy = field(default_factory=Shadow)
    deadline: Serve | None = None
    challenges: Sequence[Challenge] = ()
    watch: Watch | None = None
    metrics: Sequence[metrics.base.Metric] | None = None
    threshold: float = 0.5
    topics: Mapping[str, str] = field(default_factory=dict)
    max_events_per_key: int = EVENTS_PER_KEY_MAX
    shadow_predictions: bool = False
    serve_features: bool = False
    follow: str | None = None
    rules: Sequence[Rule] = ()
    alerts: Sequence[Alert] | None = None
    queries: Queries | None = None
    learn_share: float = 1.0
    per: str | None = None
    per_max: int = PER_MAX
    slices: Sequence[str | Cross] = ()
    slice_values_max: int = VALUES_MAX
    slice_bins: int = BINS
    worst: Worst | None = None
    reservoir: Reservoir | None = None
    tests: Sequence[ModelTest] = ()
    importance: Importance | bool | None = None
    feedback: Feedback | None = None
    fair: Sequence[Fair] = ()
    calibration: Calibration | None = field(default_factory=Calibration)
    estimate: Estimated | None = field(default_factory=Estimated)
    report_every: int | None = REPORT_EVERY
    abstain_below: float | None = None

    task: Task = ""  # type: ignore[assignment]  # derived from the models where it is left out
    plan: FeaturePlan = field(init=False, repr=False)
    stages: Stages | None = field(init=False, repr=False)
    """How windows by other keys than the topic's are computed; None where no event needs to travel."""
    rule_plan: RulePlan = field(init=False, repr=False)
    policies: tuple[Alert, ...] = field(init=False, repr=False)
    """The alerts, the usual ones where nothing is said."""
    book: tuple[CatalogueEntry, ...] = field(init=False, repr=False)
    """The catalogue of the features, with their versions."""
    catalog: Catalog = field(init=False, repr=False)
    candidates: Mapping[str, Candidate] = field(init=False, repr=False)
    """The models with what is said of each: how it starts, whether it learns."""

    def __post_init__(self) -> None:
        """Check every part and compile the features."""
        candidates = checked_candidates(self.models, self.champion, self.opening)
        models = {name: candidate.model for name, candidate in candidates.items()}
        check_challenges(self.challenges, list(candidates))
        task = self.task if str(self.task) else task_of(models, self.events.type, self.labels.field)
        check_model_classes(models, task)
        plan = compile_features(
            self.features,
            self.events.type,
            grace_ms=self.grace_ms,
            max_events_per_key=self.max_events_per_key,
            task=task,
        )
        stages = plan_stages(plan, self.events.key) if self.events.partitions > 1 else None
        if stages is not None and not stages.rekeyed:
            stages = None
        policies = checked_alerts(self.alerts, keyed=self.per is not None)
        rule_plan = compile_rules(
            self.rules, novelty_plan(policies), self.events.type, plan, task=task, fixed=self._fixed_fields()
        )
        catalog = Catalog(
            self.name,
            events=self.events.name,
            labels=self.labels.topic,
            names=self.topics,
            rekeying=stages is not None,
            keyed=self.per is not None,
            alerting=bool(policies),
            querying=self.queries is not None,
            bytes_max=plan.message_bytes_max(
                self.events.type, [*models, *(rule.name for rule in self.rules)]
            ),
        )
        labels = self.labels
        told = f"{labels.field} {labels.label} {labels.time} {labels.wait_ms} {labels.on_timeout!r} {task}"
        told += labels.told
        context = FeatureContext(self.events.time, told, self.rules)
        book = feature_book(self.features, plan, self.events.type, context)
        for name, value in (
            # As candidates, so that a copy by `dataclasses.replace` keeps what is said of each.
            ("models", candidates),
            ("candidates", candidates),
            ("task", task),
            ("plan", plan),
            ("stages", stages),
            ("rule_plan", rule_plan),
            ("policies", policies),
            ("book", book),
            ("catalog", catalog),
        ):
            object.__setattr__(self, name, value)
        self._check_race(models)
        self._check_label()
        self._check_learn_share()
        check_per(self)
        self._check_served()
        if self.follow_ms is not None and self.follow_ms < FOLLOW_MIN_MS:
            raise DefinitionError(
                f"follow is {self.follow!r}, less than {FOLLOW_MIN_MS} ms",
                hint='give a span such as "1s": models are published that often',
            )
        self.event_decoder()

    @property
    def grace_ms(self) -> int:
        """Return `events.grace` in milliseconds."""
        return duration_ms(self.events.grace)

    @property
    def max_ahead_ms(self) -> int:
        """Return `events.max_ahead` in milliseconds; what it is where it is left out."""
        if self.events.max_ahead is None:
            return max(self.grace_ms, AHEAD_DEFAULT_MS)
        return duration_ms(self.events.max_ahead)

    @property
    def follow_ms(self) -> int | None:
        """Return `follow` in milliseconds; None where every worker learns for itself."""
        return None if self.follow is None else duration_ms(self.follow)

    @property
    def implicit_label(self) -> LabelValue | None:
        """Return the label to assume when the wait has passed, or None to drop the prediction."""
        told = self.labels.on_timeout
        return None if told == "drop" else label_value(told, self.task, self.label_classes)

    @property
    def label_classes(self) -> type | None:
        """Return what a class of the labels topic is; None where the event's own field says it."""
        return (self.labels.type or str) if self.labels.topic is not None else None

    def learns(self, event_id: str) -> bool:
        """Return whether an event is of the share that is learned."""
        return share_of(f"{self.name}/learn_share", event_id) < self.learn_share

    @property
    def novelty(self) -> NoveltyPlan | None:
        """Return what scorers watch for the alerts, event by event; None for nothing."""
        return novelty_plan(self.policies)

    def event_decoder(self) -> EventDecoder | CheckedDecoder:
        """Return a decoder of the events topic, which applies the rules about fields."""
        events = self.events
        decoder = EventDecoder(
            events.type,
            event_id=events.id,
            event_time=events.time,
            key=events.key,
            label=self.labels.field,
            task=self.task,
        )
        rules = self.rule_plan.fields
        return CheckedDecoder(decoder, FieldRules(rules, events.type)) if rules else decoder

    def label_decoder(self) -> LabelDecoder | None:
        """Return a decoder of the labels topic; None where labels come inside events."""
        if self.labels.field is not None:
            return None
        labels = self.labels
        return LabelDecoder(
            self.task,
            labels.names,
            classes=self.label_classes,
            weight_max=labels.weight_max,
            kinds=labels.kinds,
        )

    @property
    def estimators(self) -> dict[str, Any]:
        """Return the River estimators and blends alone, by name."""
        return {name: candidate.model for name, candidate in self.candidates.items()}

    def fresh_models(self) -> dict[str, Any]:
        """Return new clones of the models, as defined: nothing learned, nothing shared."""
        return {
            name: model.mixture(self.task) if isinstance(model, Blend) else model.clone()
            for name, model in self.estimators.items()
        }

    def scorer_definition(self) -> dict[str, str]:
        """Return the digest of each part that a scorer's state depends on, by name; of features the version.

        Fields that no feature reads are no part of it, an event may get new ones; nor are rules, which keep
        nothing: where they change what a feature is, its version says so.
        """
        events, labels = self.events, self.labels
        types = event_fields(events.type)
        parts: dict[str, object] = {
            "events.fields": [(name, types[name]) for name in self._fixed_fields()],
            "events.grace": self.grace_ms,
            "labels": f"{labels.topic} {labels.field} {labels.wait_ms} {labels.on_timeout!r}{labels.told}",
            "task": self.task,
            "max_events_per_key": self.max_events_per_key,
        }
        if self.stages is not None:
            # Events on their way carry numbers of stages and of windows.
            plans = [self.stages.own, *(stage.plan for stage in self.stages.rekeyed)]
            windows = [
                (plan.features, [one.name for one in plan.groups]) for plan in plans if plan is not None
            ]
            parts["stages"] = f"{events.partitions} {windows}"
        if self.novelty is not None:
            parts["alerts"] = self.novelty
        if self.per is not None:
            parts["per"] = self.per
        if labels.weak:
            parts["labels.weak"] = weak_text(labels.weak)
        return {
            name: text_digest(str(part), PART_DIGITS) for name, part in parts.items()
        } | self._feature_versions()

    def learner_definition(self) -> dict[str, str]:
        """Return the digest of each part that a learner's state depends on, by name: what is answered.

        Who races and how is no part of it: that is the field, which may change while the race runs.
        """
        per = {} if self.per is None else {"per": text_digest(self.per, PART_DIGITS)}
        return {"task": text_digest(self.task, PART_DIGITS)} | per | self._feature_versions()

    @property
    def field(self) -> RaceField:
        """Return who races and by which settings: all that may change at a restart."""
        return RaceField(
            self.candidates,
            champion=self.champion,
            opening=self.opening or OPENING,
            promotion=self.promotion,
            serving=self.serving,
            deadline=self.deadline,
            challenges=self.challenges,
            drift=(Drift(drift.ADWIN()),)  # type: ignore[no-untyped-call]  # River has no types here
            if self.drift is None
            else self.drift,
            metrics=self.metrics,
            threshold=self.threshold,
            monitors=monitor_settings(self),
            watch=self.watch,
            report_every=self.report_every,
            sources=self.labels.source_rules,
            alerts=None if self.alerts is None else self.policies,
        )

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        return pipeline_html(self)

    def _feature_versions(self) -> dict[str, str]:
        return {FEATURE_PART + entry.name: entry.version for entry in self.book}

    @property
    def features_version(self) -> str:
        """Return the version of all features together, as predictions carry it."""
        return features_version(self.book)

    @property
    def scorer_plan(self) -> FeaturePlan:
        """Return the plan of a scorer: without the windows that are computed elsewhere."""
        return self.plan if self.stages is None else self.stages.answer

    def feature_types(self) -> dict[str, type]:
        """Return bool, int, float or str for every feature, by name."""
        return self.plan.feature_types(self.events.type)

    def optional_features(self) -> frozenset[str]:
        """Return the features that some event may lack, by its type, by empty windows, or by a rule."""
        rules = [rule.target for rule in self.rule_plan.features if rule.action == "null"]
        nulled = {target.name for target in rules if target is not None}
        return self.plan.optional_features(self.events.type) | nulled

    def _fixed_fields(self) -> dict[str, str]:
        """Return the fields whose values no rule may change, and what they are."""
        events, label = self.events, self.labels.field
        fixed = {events.id: "id", events.time: "time", events.key: "key"}
        return fixed | ({label: "label"} if label is not None else {})

    def _check_race(self, models: Mapping[str, Any]) -> None:
        """Check what is said of the race against the features and the task."""
        inside, task, types = self.labels.field is not None, self.task, self.feature_types()
        check_serving(self.serving, models, task)
        if self.deadline is not None:
            check_backup(self.deadline, models, inside=inside)
        check_detectors(self.field.drift, types, task, inside=inside)
        searched = bool(self.slices) or self.worst is not None
        check_guards(self.promotion.veto, types, task, searched=searched)
        if isinstance(self.serving, Canary):
            check_canary(self.serving, self.promotion.loss, types, task, inside=inside)
        check_monitors(self, types)

    def _check_label(self) -> None:
        check_weak(self.labels.weak, self.feature_types(), self.task, self.label_classes)
        if self.queries is not None:
            inside = self.labels.field is not None
            self.queries.check(self.task, len(self.models), self.labels.wait_ms, inside=inside)
        self.labels.check_task(self.task)
        declared = self.labels.type
        if declared is not None and (self.task != "multiclass" or declared not in {str, int}):
            raise DefinitionError(
                f"labels.type is {declared!r} and the task {self.task}",
                hint='leave it out, or give str or int with task="multiclass": what a class is',
            )
        if self.labels.on_timeout != "drop":
            try:
                label_value(self.labels.on_timeout, self.task, self.label_classes)
            except ValueError as error:
                raise DefinitionError(
                    f"labels.on_timeout does not fit the {self.task} models: {error}",
                    hint='use "drop" or a label the models can learn',
                ) from None

    def _check_learn_share(self) -> None:
        """Check what is learned, and by what it is watched."""
        if self.watch is not None:
            check_watch(self.watch, grace_ms=self.grace_ms)
        if not 0 < self.learn_share <= 1:
            raise DefinitionError(
                f"learn_share is {self.learn_share}", hint="a share in (0, 1]; 0.1 learns every tenth label"
            )
        if self.learn_share < 1 and self.labels.field is not None:
            raise DefinitionError(
                "learn_share needs labels of a topic: labels inside events are learned row by row",
                hint="leave learn_share out, or send the labels to a topic of their own",
            )

    def _check_served(self) -> None:
        """Features that others read stand beside the time of their event."""
        if self.serve_features and SERVED_TIME in self.features:
            raise DefinitionError(
                f"a served feature cannot be called `{SERVED_TIME}`: it says as of when the others are",
                hint="rename the feature, or leave serve_features out",
            )


class Change(NamedTuple):
    """A part of the definition that differs from the checkpoint's."""

    part: str
    before: str | None
    """Its digest in the checkpoint; None where it is new."""
    after: str | None
    """None where it is gone."""

    @property
    def is_feature(self) -> bool:
        """Return whether it is a feature."""
        return self.part.startswith(FEATURE_PART)

    def __str__(self) -> str:
        name = f"feature {self.part.removeprefix(FEATURE_PART)}" if self.is_feature else self.part
        if self.before is None:
            return f"{name} is new"
        if self.after is None:
            return f"{name} is gone"
        return f"{name} changed" + (f" ({self.before} -> {self.after})" if self.is_feature else "")


def check_definition(
    stored: Mapping[str, str], current: Mapping[str, str], place: str, *, accept_features: bool = False
) -> tuple[Change, ...]:
    """Return the features that changed, where that is accepted.

    Raises CheckpointError naming what was added, removed or changed: everything but features always, and
    features, with their versions, unless they are accepted.

    >>> check_definition({"features.n": "1a"}, {"features.n": "2b"}, "", accept_features=True)
    (Change(part='features.n', before='1a', after='2b'),)
    """
    parts = [*(name for name in current if name not in stored), *stored]
    changes = [Change(name, stored.get(name), current.get(name)) for name in parts]
    changes = [change for change in changes if change.before != change.after]
    others = [change for change in changes if not change.is_feature]
    if not others and (accept_features or not changes):
        return tuple(changes)
    named = [*others, *(change for change in changes if change.is_feature)]
    more = f" and {len(named) - CHANGES_NAMED_MAX} more" if len(named) > CHANGES_NAMED_MAX else ""
    told = ", ".join(map(str, named[:CHANGES_NAMED_MAX]))
    hint = "go back to the old definition, give the pipeline a new name, or set another state_dir"
    if not others:
        hint = (
            "to go on, `headrace run PIPELINE.py --accept-changed-features`: models keep what they learned, "
            f"windows that are kept as before go on, the others begin empty; or {hint}"
        )
    raise CheckpointError(f"{place} was written by another definition: {told}{more}", hint=hint)
