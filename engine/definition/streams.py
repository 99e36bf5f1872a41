"""Where a pipeline's events and labels come from, as users write it.

Lives here: `Topic` and `Labels`, and what they refuse at once.  Never here: what does not fit the rest of
a definition (`pipeline.py`), reading topics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import msgspec

from engine.definition.weak import Weak
from operators.join.combine import (
    LABELS_PER_EVENT_MAX,
    Combine,
    Correct,
    LabelPolicy,
    LearnWhen,
    combinable,
)
from operators.join.join import EARLY_MAX
from operators.join.pending import PENDING_MAX
from operators.trust.sources import SOURCE_WINDOW, SourceRules, Trust
from topics.codec import NUMBER_MAX, LabelNames
from topics.durations import duration_ms
from topics.errors import DefinitionError
from topics.messages import LabelValue, Task

__all__ = ["Labels", "Topic"]

SOURCE_WINDOW_MAX = 10_000
"""Labels of a window of sources, some 30 bytes each."""
WEIGHT_MAX = 100.0
"""Of a label unless the definition says otherwise: models that take no weight are taught so often by one."""


@dataclass(frozen=True)
class Topic:
    """The events: their topic, their type, and which fields are id, time and key.

    `name`
        What the topic is called.
    `type`
        The msgspec Struct that an event is: names and types of its fields.
    `key`
        The field that is the record's key as well: events of one key share a partition and their state.
    `id`
        The field that says which event it is, text or a whole number: a repeat changes nothing.
    `time`
        The field with the event's time: whole milliseconds since 1970, UTC, or a `datetime`.
    `grace`
        How far an event may lie behind the largest event time seen and still enter windows.
    `max_ahead`
        How far an event, or a label, may lie ahead of its arrival before it is refused as the product
        of a wrong clock; None is `grace` or one minute, whichever is longer.
    `partitions`
        How many partitions the events topic has; topics of ours are created with as many.
    """

    name: str
    type: type[msgspec.Struct]
    key: str
    id: str = "event_id"
    time: str = "event_time"
    grace: str | int = "1m"
    max_ahead: str | int | None = None
    partitions: int = 1


@dataclass(frozen=True)
class Labels:
    """The labels: a topic of label messages, or a field of the event itself.

    `topic`
        The topic of label messages; give this or `field`.
    `field`
        The event's own field that is the label (replays, forecasts of the next reading): each event
        is predicted first, then learned.
    `wait`
        How long, in event time, a prediction waits for its label; a must with `topic`.  With `field` it
        bounds how long a repeated event id is recognised, and None is one minute.
    `on_timeout`
        `"drop"`, or the label to assume and learn when the wait is over.
    `id`
        The field of a label message with the id of its event.
    `label`
        The field of a label message with the label: true or false (1, 0), a class, or a number.
    `time`
        The field of a label message with the time at which the label was known, ms or RFC 3339 text.
    `pending_max`
        How many answers of one partition wait, most of them on disk; beyond, those whose wait ends
        first are given up, each as a dead letter.
    `early_max`
        How many labels of one partition, in memory, wait for their events; beyond, labels of unknown
        events are dead letters.
    `combine`
        What is made of several labels of one event: `"first"` takes the one that comes first; `"last"`,
        `"sum"`, `"mean"`, `"max"`, `"min"` and `"median"` take all that came, when the wait is over.
    `labels_per_event_max`
        How many labels of one event are kept; beyond, they are dead letters.
    `learn`
        When an example is learned: `"when_joined"`, with its label, or `"uniform"`, every one when its wait
        is over, so that labels that come early are not learned before the others. `"corrected"` learns a
        negative at once and the positive when it comes, weighted so that nothing leans; binary, and with
        `on_timeout=False`.
    `weight`
        The field of a label message with what it weighs when models learn it, above 0.
    `sampled`
        The field of a label message with the probability with which its log kept it: it weighs 1 over that.
        Give this or `weight`.
    `weight_max`
        The largest weight of a label; one of more, or of none, is a dead letter.
    `source`
        The field of a label message that names who says so, text or a whole number.
    `correct`
        What a later label that differs does: `"record"` corrects what was measured, `"relearn"` is learned as
        well; None refuses it.
    `kinds`
        Kinds of feedback, by the field `kind` of a label message, and what each is worth: of a regression a
        factor of its label, else its weight. A label of another kind is a dead letter.
    `kind`
        The field of a label message with the kind of feedback.
    `weak`
        Labelling functions, a `Weak` each: they vote for a label where none came by the end of the wait.
    `per_source_max`
        How many of the last `per_source_window` labels are learned of one source; what is beyond is kept in
        the log and not learned.  None is any; it needs a `source`.
    `per_source_window`
        The labels, of all sources, among which those of one are counted.
    `trust`
        When a source is quarantined: a `Trust`; None never does.  It needs a `source`.
    `type`
        What a class of `task="multiclass"` is in label messages, `str` or `int`; None is `str`.  A label of
        the other type is a dead letter; inside events the field's type decides.
    """

    topic: str | None = None
    field: str | None = None
    wait: str | int | None = None
    on_timeout: LabelValue | Literal["drop"] = "drop"
    id: str = "event_id"
    label: str = "label"
    time: str = "label_time"
    pending_max: int = PENDING_MAX
    early_max: int = EARLY_MAX
    combine: Combine = "first"
    labels_per_event_max: int = LABELS_PER_EVENT_MAX
    learn: LearnWhen = "when_joined"
    weight: str | None = None
    sampled: str | None = None
    weight_max: float = WEIGHT_MAX
    source: str | None = None
    correct: Correct | None = None
    kinds: Mapping[str, float] | None = None
    kind: str = "kind"
    per_source_max: int | None = None
    per_source_window: int = SOURCE_WINDOW
    trust: Trust | None = None
    type: type[str] | type[int] | None = None
    weak: Sequence[Weak] = ()

    def __post_init__(self) -> None:
        """Raise DefinitionError unless labels have exactly one source, and bounds that leave room."""
        if (self.topic is None) == (self.field is None):
            raise DefinitionError(
                "labels need a topic or a field, and not both",
                hint='write Labels("my.labels", wait="1d") or Labels(field="label")',
            )
        if self.topic is not None and self.wait is None:
            raise DefinitionError(
                f"labels of topic {self.topic} have no `wait`",
                hint='say how long a prediction waits for its label, e.g. wait="36h"; it bounds memory',
            )
        bounds = (
            ("pending_max", self.pending_max, 1),
            ("early_max", self.early_max, 0),
            ("labels_per_event_max", self.labels_per_event_max, 1),
        )
        for name, bound, least in bounds:
            if bound < least:
                raise DefinitionError(
                    f"`{name}` of labels is {bound}",
                    hint=f"give a number of {least} or more, or leave it out",
                )
        if self.weak and self.learn == "corrected":
            raise DefinitionError(
                'learn="corrected" takes an event without a label for a negative: `weak` has no say',
                hint='write learn="uniform" with `weak`, or leave `weak` out',
            )
        if self.weak and (self.field is not None or self.on_timeout != "drop"):
            raise DefinitionError(
                "`weak` of labels votes where no label came by the end of the wait: here there is one",
                hint="leave `field` and `on_timeout` out; a label for what nobody else votes for is one"
                " more function, of small weight",
            )
        if self.field is not None and self.on_timeout != "drop":
            raise DefinitionError("a label inside the event cannot time out", hint="leave `on_timeout` out")
        self._check_weights()
        self._check_policy()

    def _check_weights(self) -> None:
        """Raise DefinitionError for weights and sources that no label message can have."""
        named = [name for name in ("weight", "sampled", "source") if getattr(self, name) is not None]
        if self.field is not None and named:
            raise DefinitionError(
                f"`{named[0]}` is a field of a label message, and these labels come inside events",
                hint="leave it out, or send labels to a topic of their own",
            )
        if self.weight is not None and self.sampled is not None:
            raise DefinitionError(
                f"labels are weighed twice, by `{self.weight}` and by `{self.sampled}`",
                hint="give `weight`, or `sampled` with a probability, whose weight is 1 over it",
            )
        self._check_sources()
        if not 0.0 < self.weight_max < math.inf:
            raise DefinitionError(
                f"`weight_max` of labels is {self.weight_max}", hint="a finite number above 0"
            )
        fields = [self.id, self.label, self.time, *(getattr(self, name) for name in named)]
        if len(set(fields)) < len(fields) or not all(fields):
            raise DefinitionError(
                f"two of the fields of a label message have one name: {', '.join(fields)}",
                hint="each is a field of its own",
            )

    def _check_sources(self) -> None:
        """Raise DefinitionError for rules about sources that nobody names."""
        if self.source is None and (self.per_source_max is not None or self.trust is not None):
            raise DefinitionError(
                "`per_source_max` and `trust` are about the sources of labels, and no field names one",
                hint='give source="field": the field of a label message that says whose it is',
            )
        if self.per_source_max is not None and not 1 <= self.per_source_max <= self.per_source_window:
            raise DefinitionError(
                f"`per_source_max` of labels is {self.per_source_max} of {self.per_source_window}",
                hint="give 1 or more, and at most `per_source_window`",
            )
        if not 1 <= self.per_source_window <= SOURCE_WINDOW_MAX:
            raise DefinitionError(
                f"`per_source_window` of labels is {self.per_source_window}",
                hint=f"give a number from 1 to {SOURCE_WINDOW_MAX:,}: they are kept in every checkpoint",
            )
        if self.trust is not None and self.combine in {"sum", "mean", "median"}:
            raise DefinitionError(
                f"labels are combined by {self.combine!r}, of all their sources: nobody is to blame",
                hint="leave `trust` out, or combine by one that is a label as it came",
            )

    def _check_policy(self) -> None:
        """Raise DefinitionError for what cannot be done with several labels of one event."""
        policy = self.policy
        for name, value, known in (
            ("combine", policy.combine, get_args(Combine)),
            ("learn", policy.learn, get_args(LearnWhen)),
            ("correct", policy.correct, (None, *get_args(Correct))),
        ):
            if value not in known:
                raise DefinitionError(
                    f"`{name}` of labels is {value!r}", hint=f"one of {', '.join(map(repr, known))}"
                )
        if self.field is not None and (policy.several or self.kinds is not None):
            raise DefinitionError(
                "an event that carries its label has one, and it is learned at once",
                hint="leave `combine`, `learn`, `correct` and `kinds` out, or send labels to a topic",
            )
        if policy.correct is not None and policy.at_horizon:
            raise DefinitionError(
                "an example that is made when the wait is over takes all labels, so nothing corrects it",
                hint='write combine="last" without `correct`, or leave `combine` and `learn` out',
            )
        if policy.correct is not None and (self.per_source_max is not None or self.trust is not None):
            raise DefinitionError(
                "a label that is left out for its source counts nowhere, so nothing can be corrected in it",
                hint='write combine="last" without `correct`, or leave `per_source_max` and `trust` out',
            )
        if self.kinds is not None and not self.kinds:
            raise DefinitionError(
                "`kinds` names no kind", hint='write kinds={"click": 1.0, "purchase": 10.0}'
            )

    def check_task(self, task: Task) -> None:
        """Raise DefinitionError for what makes no sense of labels of this task."""
        if self.learn == "corrected" and (task != "binary" or self.on_timeout is not False):
            raise DefinitionError(
                'learn="corrected" takes an event for negative until a label comes',
                hint="it is for binary labels with on_timeout=False: none that comes is a negative",
            )
        if self.learn == "corrected" and self.combine not in {"first", "max"}:
            raise DefinitionError(
                f'learn="corrected" cannot take back a positive, and combine={self.combine!r} may',
                hint='write combine="max", or leave it out',
            )
        fitting = combinable(task)
        if self.combine not in fitting:
            raise DefinitionError(
                f"labels of the {task} models cannot be combined by {self.combine!r}",
                hint=f"one of {', '.join(map(repr, fitting))}"
                + ('; "max" is any, "min" all' if task == "binary" else ""),
            )
        for kind, worth in (self.kinds or {}).items():
            least = -NUMBER_MAX if task == "regression" else 0.0
            if not (least <= worth <= NUMBER_MAX) or (worth == 0.0 and task != "regression"):
                what = "a number" if task == "regression" else "a weight above 0"
                raise DefinitionError(f"kind {kind!r} of labels is worth {worth!r}", hint=f"give {what}")
            if task != "regression" and worth > self.weight_max:
                raise DefinitionError(
                    f"kind {kind!r} of labels is worth {worth!r}, more than `weight_max`",
                    hint=f"give each kind at most {self.weight_max:g}, or raise `weight_max`",
                )

    @property
    def policy(self) -> LabelPolicy:
        """Return what becomes of several labels of one event."""
        return LabelPolicy(self.combine, self.learn, self.correct, self.labels_per_event_max)

    @property
    def told(self) -> str:
        """Return what is made of several labels, where it is anything but the first, at once: for digests."""
        policy = self.policy
        several = f" {policy.combine} {policy.learn} {policy.correct}" if policy.several else ""
        return several if self.kinds is None else f"{several} {sorted(self.kinds.items())}"

    @property
    def names(self) -> LabelNames:
        """Return the names of a label message's fields."""
        return LabelNames(
            self.id,
            self.label,
            self.time,
            self.weight or "",
            self.sampled or "",
            self.source or "",
            self.kind if self.kinds is not None else "",
        )

    @property
    def source_rules(self) -> SourceRules | None:
        """Return how far sources are trusted; None where all are."""
        if self.per_source_max is None and self.trust is None:
            return None
        return SourceRules(self.per_source_max, self.per_source_window, self.trust)

    @property
    def weighs(self) -> bool:
        """Return whether label messages say what they weigh."""
        return self.weight is not None or self.sampled is not None

    @property
    def wait_ms(self) -> int:
        """Return the horizon in milliseconds of event time."""
        return duration_ms("1m" if self.wait is None else self.wait)
