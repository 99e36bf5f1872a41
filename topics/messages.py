"""Every message of Headrace as a frozen value, and the few values that carry them.

Lives here: the fields of a message and what they mean.  Never here: bytes
(`codec.py`), topic names (`catalog.py`), memory, clocks.

All times are integers, milliseconds since the Unix epoch, UTC, on the wire as in
memory.  Offsets always mean the offset of the record itself; a *position* is the
next offset to read.  Changes to these messages are additive only.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

__all__ = [
    "ASSUMED",
    "REPORTED",
    "UNMEASURED",
    "AlertChannel",
    "AlertKind",
    "AlertRecord",
    "AlertSeverity",
    "AlertState",
    "Block",
    "CalibrationBin",
    "CalibrationCurve",
    "Claim",
    "Command",
    "CommandWord",
    "Content",
    "Decision",
    "DecisionType",
    "Entrant",
    "Event",
    "Example",
    "FeatureValue",
    "FeatureValues",
    "FieldChange",
    "Headers",
    "Label",
    "LabelValue",
    "ModelPointer",
    "NoveltyKind",
    "Outgoing",
    "OutgoingRole",
    "Prediction",
    "Quarantine",
    "Query",
    "Record",
    "RecordType",
    "Score",
    "ScoreBin",
    "Slow",
    "Task",
    "WorkerStatus",
]

FeatureValue = bool | int | float | str
FeatureValues = dict[str, FeatureValue]
LabelValue = bool | int | float | str
Score = float | dict[str, float] | None
"""Binary: probability of True.  Regression: the value.  Multiclass: label -> probability.

None: the model has no opinion yet (River's empty answer before the first lesson).
"""
Headers = tuple[tuple[str, bytes], ...]
Task = Literal["binary", "multiclass", "regression"]
OutgoingRole = Literal[
    "predictions",
    "shadow-predictions",
    "examples",
    "decisions",
    "models",
    "dead-letters",
    "rekey",
    "rekeyed",
    "alerts",
    "queries",
]
"""Where an outgoing record goes, by role; `catalog.py` knows the topic's name."""
ASSUMED = frozenset({"assumed", "revised"})
"""Origins of labels that take an event for negative until its positive comes."""
UNMEASURED = ASSUMED | {"weak"}
"""Origins of labels that are no truth: models learn them, nothing is measured by them."""
REPORTED = frozenset({"slices.reported", "calibration.reported", "labels.reported"})
"""Types of decisions that tell what was seen, now and then, and decide nothing."""
RecordType = Literal["example", "claim", "quarantine", "command", "field", "slow", "block"]
"""What a record of the examples log is; carried in the header `headrace-kind`."""
CommandWord = Literal[
    "promote",
    "rollback",
    "pin",
    "unpin",
    "pause",
    "resume",
    "retire",
    "release",
    "approve",
    "refuse",
    "weights",
    "ack",
]
DecisionType = Literal[
    "opening.started",
    "blend.weighed",
    "drift.detected",
    "drift.improved",
    "challenger.started",
    "challenger.retired",
    "model.promoted",
    "model.rolled_back",
    "model.quarantined",
    "model.released",
    "version.released",
    "version.held",
    "version.restored",
    "champion.pinned",
    "champion.unpinned",
    "proposal.opened",
    "proposal.accepted",
    "proposal.refused",
    "proposal.expired",
    "promotion.vetoed",
    "learning.paused",
    "learning.resumed",
    "learning.backlog",
    "model.over_budget",
    "source.quarantined",
    "source.released",
    "canary.started",
    "canary.stepped",
    "canary.aborted",
    "canary.done",
    "split.decided",
    "switchback.decided",
    "command.refused",
    "field.changed",
    "field.refused",
    "candidate.entered",
    "candidate.refused",
    "candidate.retired",
    "key.erased",
    "shift.found",
    "shift.updated",
    "shift.ended",
    "slices.reported",
    "calibration.reported",
    "labels.reported",
    "alert.acked",
]
NoveltyKind = Literal["new_category", "too_many_categories", "new_field", "missing_field", "too_many_fields"]
AlertKind = Literal[
    "signal",
    "decision",
    "new_category",
    "too_many_categories",
    "new_field",
    "missing_field",
    "too_many_fields",
]
AlertState = Literal["firing", "resolved", "told"]
AlertSeverity = Literal["info", "warning", "critical"]
AlertChannel = Literal["log", "webhook", "alertmanager"]


class Record(Struct, frozen=True, gc=False):
    """One record as it lies in a Kafka log (or one line of a file: offset = line, from 0)."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int | None
    """The record's Kafka timestamp; None in files, which have none."""
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class Outgoing(Struct, frozen=True, gc=False):
    """One record to be written; the shell turns `target` into a topic."""

    target: OutgoingRole
    partition: int | None
    """None lets murmur2 over the key decide, as Kafka's Java client does."""
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int | None
    """None: the time of writing."""

    def written(self, topic: str, partition: int, offset: int) -> Record:
        """Return the record as it lies in a log."""
        return Record(topic, partition, offset, self.timestamp_ms, self.key, self.value, self.headers)


class Content(Struct, frozen=True, gc=False):
    """What one record holds, for whoever names the topic and the partition."""

    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp_ms: int | None = None
    """None: the time of writing."""


class Event(Struct, frozen=True, gc=False):
    """A valid event inside the engine: the user's value and what Headrace knows of it."""

    event_id: str
    event_time: int
    key: str
    value: Any
    """The user's msgspec Struct, decoded and validated."""
    offset: int
    watermark: int
    """Watermark of the partition after this event: largest event time seen minus `grace`."""
    late: bool = False
    """True if the event came after the watermark had passed it: scored, never windowed."""
    headers: Headers = ()
    record_key: bytes | None = None
    label: LabelValue | None = None
    """The label that it carries, where labels come inside events."""
    payload_crc: int = 0
    """CRC-32 of its bytes, to tell a repeat from another event under the same id."""


class Label(Struct, frozen=True, omit_defaults=True, gc=False):
    """What turned out to be true for one event."""

    event_id: str
    label: LabelValue
    label_time: int
    offset: int = -1
    kind: str = ""
    """Which kind of feedback it is, where there are several."""
    weight: float = 1.0
    """What it weighs when models learn it."""
    source: str = ""
    """Who says so; empty where nobody is named."""


class Prediction(Struct, frozen=True, omit_defaults=True, gc=False):
    """The answer to one event, as on the predictions topic.

    `prediction_id` is a function of pipeline and event id alone.  Of several records
    with one id, the one with the highest claim that counts is the answer
    (`operators.claims.rule`).
    """

    prediction_id: str
    """`<pipeline>:<event_id>`: a repeat has the same."""
    event_id: str
    """Id of the event that this answers."""
    event_time: int
    """The event's own time, ms."""
    prediction_time: int
    """Wall clock of the scorer when it answered, ms; never used in state."""
    model_name: str
    """Candidate that answered; `prior` where none could."""
    model_version: int
    """Changes only when another model serves."""
    model_updates: int
    """Labels learned so far: with the version it names the exact state of an online model."""
    model_alias: str
    """`champion`; on shadow predictions `challenger`."""
    prediction_score: Score
    """Binary: probability of true. Regression: the value. Multiclass: probability by class. Null: no opinion
    yet."""
    prediction_label: LabelValue | None
    """The label that the score means; null without a score."""
    served_by: str
    """`champion`, `arm` (picked by the serving policy), `previous` (an earlier champion), `backup` (past the
    deadline) or `prior` (no model could answer)."""
    features: FeatureValues
    """The features as served, by name; a missing one is left out."""
    event_offset: int
    """Offset of the event's record in the partition of the same number."""
    claim: int
    """Claim of the scorer that wrote this."""
    sequence: int
    """Number of this record under its claim, from 0."""
    threshold: float | None = None
    """Binary: from which score on the label is true."""
    cold_start: bool = False
    """The model has not learned yet."""
    late: bool = False
    """The event came behind the watermark: answered, in no window."""
    scores: dict[str, Score] | None = None
    """Every candidate's score; only in files written by a backtest."""
    flags: tuple[str, ...] = ()
    """Names of the rules with action "flag" that the event or its features broke."""
    policy: str = ""
    """Serving policy that picked who is to answer; empty where the champion answers all."""
    policy_revision: int = 0
    """Revision of the policy's table by which it was picked."""
    propensity: float | None = None
    """Probability with which the policy picks the candidate that answered; null where the one that it picked
    had no answer."""
    weights: dict[str, float] | None = None
    """A blend that answered: what the score of each other candidate counted for; they sum to 1."""
    lineup: int = 0
    """How often, before it was answered, a candidate's name had been given to another model."""
    abstain: bool = False
    """The score gives its label less chance than `abstain_below`: better ask somebody else."""


class Example(Struct, frozen=True, omit_defaults=True, gc=False):
    """One line of the training log: what was served and what turned out to be true."""

    event_id: str
    """Id of the event."""
    key: str
    """The event's key."""
    event_time: int
    """The event's own time, ms."""
    label_time: int
    """When the label became known, ms."""
    label: LabelValue
    """What turned out to be true."""
    features: FeatureValues
    """The features as served with the prediction."""
    scores: dict[str, Score]
    """Every candidate's score at event time, by candidate name."""
    served_score: Score
    """The score that was served."""
    served_by: str
    """Who answered, as in the prediction."""
    model_name: str
    """Candidate that answered."""
    source_partition: int
    """Partition of the event."""
    event_offset: int
    """Offset of the event's record."""
    label_offset: int
    """Offset of the label's record, of several the newest; -1 for an implicit label, the event's own inside
    events."""
    claim: int
    """Claim of the scorer that wrote this."""
    sequence: int
    """Number of this record under its claim, from 0."""
    expired_at_offset: int = -1
    """Implicit labels, and those made of several: offset of the event whose watermark ended the wait."""
    model_version: int = 0
    """Version of the candidate that answered, as in the prediction."""
    model_updates: int = 0
    """Labels that it had learned when it answered."""
    policy: str = ""
    """Serving policy that picked who answers, as in the prediction."""
    policy_revision: int = 0
    """Revision of the policy's table, as in the prediction."""
    propensity: float | None = None
    """Probability with which the policy picks the candidate that answered, as in the prediction."""
    lineup: int = 0
    """As in the prediction: a score of a model that has left says nothing about the one that got its name."""
    weight: float = 1.0
    """How many labels it stands for: 1 / `learn_share`."""
    origin: str = ""
    """Where the label is from. Empty: one that came. `implicit`: none came by the horizon. `assumed`: a
    negative taken for granted when the event was answered, and `revised`: the positive that came after it.
    `weak`: labelling functions voted for it, as none came. The last three are learned and not measured."""
    learn: bool = True
    """Whether models learn it; false: it is measured only."""
    before: LabelValue | None = None
    """Of a correction: the label that it replaces; null where it replaces none."""
    before_time: int = 0
    """Of a correction: the label time of what it replaces, ms."""
    label_weight: float = 1.0
    """What the label weighs when models learn it; of weight 0 it is measured and not learned."""
    source: str = ""
    """Who says that it is true, where labels name their source."""

    @property
    def measured(self) -> bool:
        """Return whether it is what models are measured by: no assumption, and no correction of another."""
        return self.before is None and self.origin not in UNMEASURED


class ScoreBin(Struct, frozen=True, gc=False):
    """Answers of one block whose scores lie in one bin, of 100 of equal width."""

    bin: int
    """Its number: a hundred times its smallest score."""
    label: bool
    """Whether these answers are true; of several classes, true."""
    rows: int
    """How many there are."""
    score: float
    """Sum of their scores; of several classes, of the answered class."""
    squares: float
    """Sum of the squared scores."""


class Block(Struct, frozen=True, omit_defaults=True, gc=False):
    """What one partition answered in one block of event time: exact counts, and a sample of the rows."""

    number: int
    """Number of the block: its start over the length of a block."""
    start_ms: int
    """First event time of the block, ms."""
    end_ms: int
    """First event time after the block, ms."""
    rows: int
    """Events that were answered, sampled or not."""
    late: int
    """Events that were answered after their block was closed: in no block."""
    refused: dict[str, int]
    """Events and labels that were refused since the last block, by reason."""
    served_by: dict[str, int]
    """Answers by who gave them, as in the prediction."""
    hashes: list[int]
    """Of each sampled row, the hash of its event id: the smallest ones of the block, rising. The samples of
    several partitions are one by taking the smallest of all."""
    features: dict[str, list[FeatureValue | None]]
    """The sampled rows' features by name, in the order of `hashes`; null where one is missing."""
    scores: list[Score]
    """The score that each sampled row was answered with, in the order of `hashes`."""
    answered: list[ScoreBin] = []
    """With `Estimated(answered=True)`: the scores of all answers of the block that have one, by bin."""
    closed_at_offset: int = -1
    """Offset of the event whose watermark passed its end."""
    source_partition: int = -1
    """Partition of the events."""
    claim: int = 0
    """Claim of the scorer that wrote this."""
    sequence: int = -1
    """Number of this record under its claim, from 0."""


class Claim(Struct, frozen=True, gc=False):
    """From here on only this owner's records of this source partition count."""

    source_partition: int
    """Partition of the events whose owner this is."""
    claim: int
    """Number of the owner: higher than all before. Negative: announced, not made; it changes nothing for
    readers."""
    nonce: str = ""
    """Tells the owner from another one that got the same number of a store that went back; empty in records
    of former versions. It changes nothing for readers."""


class Quarantine(Struct, frozen=True, omit_defaults=True, gc=False):
    """A scorer saw a candidate fail; the learner acts on it at this offset of the log."""

    event_id: str
    """Event at which the candidate failed."""
    model_name: str
    """The candidate."""
    model_version: int
    """Its version."""
    reason: str
    """What it raised or returned."""
    source_partition: int
    """Partition of the event."""
    event_offset: int
    """Offset of the event's record."""
    claim: int
    """Claim of the scorer that wrote this."""
    sequence: int
    """Number of this record under its claim, from 0."""
    key: str = ""
    """With `per=`: the key whose race it is about."""


class Slow(Struct, frozen=True, omit_defaults=True, gc=False):
    """A worker measured that a candidate takes longer than it may; the learner acts on it at this offset."""

    model_name: str
    """The racer."""
    model_version: int
    """Its version."""
    time: int
    """When it was measured, ms, by the worker's clock."""
    median_ms: float
    """Milliseconds that its score and its lesson of one event take together, as the median; for a canary's
    guard, its score alone, as the quantile of the guard."""
    limit_ms: float
    """Milliseconds that they may take: `budget_ms`, or the guard's limit."""
    rows: int
    """Events that were measured."""
    guard: str = ""
    """Name of the canary's guard that it breaks; empty where it is over its budget."""


class Command(Struct, frozen=True, omit_defaults=True, gc=False):
    """What a person asked for; it acts at its offset in the examples log, once per id."""

    command_id: str
    """Chosen by the sender; a repeat changes nothing."""
    command: CommandWord
    """What to do."""
    time: int
    """When it was asked for, ms."""
    model_name: str | None = None
    """Candidate that it is about, where it is about one."""
    actor: str = ""
    """Who asks."""
    reason: str = ""
    """Why."""
    to: str | None = None
    """`rollback`: the good version to return to, `VERSION@UPDATES`."""
    proposal_id: str | None = None
    """`approve`, `refuse`: the proposal, by the id of the decision that opened it."""
    weights: dict[str, float] | None = None
    """`weights`: the weight of each candidate in a blend of fixed weights."""
    source: str = ""
    """`release`: the source of labels that is trusted again, where it is about no model."""
    key: str = ""
    """With `per=`: the key whose race it is about."""
    alert_id: str | None = None
    """`ack`: the alert that somebody has seen."""
    false_alarm: bool = False
    """`ack`: it told of nothing."""


class Entrant(Struct, frozen=True, omit_defaults=True, gc=False):
    """A candidate that a field record lets into the race, and what it has learned before."""

    name: str
    """Its name."""
    definition: str
    """Its model: class and arguments, all the way down."""
    start: str
    """How it starts, as the file says."""
    artefact: str = ""
    """Structural digest of the state it brings, which names an artefact; empty where it brings none."""
    updates: int = 0
    """Labels that this state has learned."""
    learned_from: int = -1
    """First offset of the examples log that it has learned; -1 for none."""
    learned_to: int = -1
    """Next offset of the examples log that it has not learned; what lies between there and here never is."""


class FieldChange(Struct, frozen=True, omit_defaults=True, gc=False):
    """The leader's file says another field: it holds from this offset on, in every process and replay."""

    field_id: str
    """Digest of the field from here on, which names its artefact; a repeat changes nothing."""
    time: int
    """Wall clock of the leader when it wrote this, ms; never used in state."""
    before: str = ""
    """Digest of the field that the leader had; empty on the first record, which says how the log begins."""
    entering: tuple[Entrant, ...] = ()
    """Candidates that begin to race."""
    retiring: tuple[str, ...] = ()
    """Candidates that leave the race, those whose model is another now among them."""
    waiting: tuple[str, ...] = ()
    """Candidates that learn the log first; a later record of the same field lets them in."""
    settings_before: dict[str, str] = {}
    """Settings that change, by name, as they were."""
    settings_after: dict[str, str] = {}
    """The same settings as they are from here on."""
    refused: dict[str, str] = {}
    """Candidates that waited and failed while they learned the log, with why: they wait no more."""


class CalibrationBin(Struct, frozen=True, gc=False, rename={"low": "from", "high": "to"}):
    """One bin of a calibration curve that has rows."""

    low: float
    """Its smallest score."""
    high: float
    """Its largest score; not included but in the last bin."""
    rows: int
    """Answers whose score lies in it."""
    mean_score: float
    """Their mean score."""
    label_rate: float
    """How many of them came true; of several classes, how many were right."""


class CalibrationCurve(Struct, frozen=True, gc=False):
    """Whether the scores of one candidate, or of what was served, mean what they say."""

    rows: int
    """Answers with a label."""
    calibration_error: float
    """Expected calibration error: the distance of label rate and mean score, weighted by rows."""
    Brier: float
    """Brier score: reliability - resolution + uncertainty + within_bins."""
    reliability: float
    """What honest scores would save."""
    resolution: float
    """What the model knows."""
    uncertainty: float
    """What the labels are."""
    within_bins: float
    """What the width of the bins hides."""
    curve: list[CalibrationBin]
    """The bins that have rows, by score."""
    recent_calibration_error: float
    """The error of sums that are halved every so many examples."""


class Decision(Struct, frozen=True, omit_defaults=True, gc=False):
    """One line of the audit log: what was decided about models, or seen, when, and on what evidence."""

    decision_id: str
    """Pipeline, examples partition, with `per=` the key, offset and number (or `backlog`); of what a
    scorer tells, `erase` or `labels`, its partition and the record's offset: the same after a replay."""
    type: DecisionType
    """What was decided."""
    time: int
    """Label time of the example that led to it, ms, of a verdict on shift the end of its block, of
    `labels.reported` that of the label: never a wall clock."""
    model_name: str
    """Candidate that it is about; empty where it is about none."""
    model_version: int
    """Its version; 0 for a candidate that was refused before it raced."""
    examples: int
    """Examples learned when it was decided."""
    reason: str
    """Why, in words."""
    actor: str
    """Who decided: `headrace`, or the command's actor."""
    offset: int
    """Offset in the examples log at which it was decided; -1 for what a scorer tells of its partition."""
    from_model: str | None = None
    """Champion before a swap."""
    from_version: int | None = None
    """Its version."""
    evidence: dict[str, float | int | str] = {}
    """The figures behind it, by name."""
    key: str = ""
    """With `per=`: the key whose race it is about; empty where it is about none."""
    features: list[str] = []
    """Features that a verdict on shift is about, the most unusual first."""
    slices: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    """`slices.reported`: figures by feature, value and candidate, the largest slices first; `served` is what
    was served."""
    calibration: dict[str, CalibrationCurve] = {}
    """`calibration.reported`: the curve of what was served and of every candidate."""
    labels: dict[str, int] = {}
    """`labels.reported`: labels of one partition since its first, by what became of them; `read` is how many
    came."""


class AlertRecord(Struct, frozen=True, omit_defaults=True, gc=False):
    """Something that somebody is to know of: that it has begun, that it is over, or that it happened once.

    The records of one alert carry one id; the newest of them says how it stands.
    """

    alert_id: str
    """Pipeline, policy, and of a signal its subject and first time, of what is new in the events its field
    and category, of a decision its model and offset: the same again after a replay, and from every
    partition."""
    policy: str
    """Name of the entry of the definition's `alerts`."""
    state: AlertState
    """`firing`, `resolved`, or `told` for what happens once and has no end."""
    kind: AlertKind
    """`signal`, `decision`, or what is new in the events."""
    severity: AlertSeverity
    """How bad it is, as the definition says."""
    time: int
    """When this record was made, ms: label time for what a learner sees, event time for what is new, else the
    clock of the worker."""
    since: int
    """When it began, ms, by the same clock; of one that came back, when it began first."""
    says: str
    """What happened, in words."""
    subject: str = ""
    """What it is about: a candidate, a verdict, the first partition of a worker; empty for the pipeline."""
    value: float | None = None
    """The signal's value when this was written."""
    bound: float | None = None
    """The bound beyond which it lies, or lay."""
    count: int = 1
    """How often it has begun: one that comes back within a while keeps its id."""
    costs: str = ""
    """What it costs as long as it lasts."""
    act: str = ""
    """What to do."""
    look: str = ""
    """Where to look."""
    runbook: str = ""
    """An address where it says what to do."""
    channels: tuple[AlertChannel, ...] = ()
    """The channels it goes to; empty for all that are set up."""
    field: str = ""
    """What is new: field of the event."""
    category: str = ""
    """What is new: the category; empty for keys."""
    event_id: str = ""
    """What is new: event that showed it first."""
    event_offset: int = -1
    """Offset of its record; of a decision, that in the examples log."""
    partition: int = -1
    """What is new: partition of the event."""


class Query(Struct, frozen=True, omit_defaults=True, gc=False):
    """An event that a person should label: one of the most doubtful of its window of event time.

    The answer is an ordinary message on the labels topic, under the event's key.
    """

    query_id: str
    """Pipeline, beginning of the window and event id: the same again after a replay."""
    event_id: str
    """Event to label: the label's event id."""
    key: str
    """Its key: the label's record key."""
    event_time: int
    """Its own time, ms."""
    by: str
    """Why it is asked for: `uncertainty` of the answer, or `disagreement` of the candidates."""
    doubt: float
    """How doubtful, by that measure; larger is more."""
    rank: int
    """Its place among the events of the window and partition, from 1."""
    window_start: int
    """Beginning of the window, ms of event time."""
    window_end: int
    """Its end, ms; not included."""
    until: int
    """Largest label time that still joins, ms: event time plus `wait`."""
    model_name: str
    """Candidate that answered."""
    prediction_score: Score
    """What was served."""
    prediction_label: LabelValue | None
    """The label that the score means."""
    scores: dict[str, Score]
    """Every candidate's score, by name."""
    features: FeatureValues
    """The features as served."""
    partition: int
    """Partition of the event."""
    event_offset: int
    """Offset of its record."""


class ModelPointer(Struct, frozen=True, omit_defaults=True, gc=False):
    """A compacted record under `<pipeline>@<alias>`, or `<pipeline>/<key>@<alias>`: who serves or served."""

    pipeline: str
    """Name of the pipeline."""
    alias: str
    """`champion`, or `v` and a version: the state in which it last became champion."""
    model_name: str
    """Candidate that serves, or served."""
    version: int
    """Its version, as on predictions."""
    updates: int
    """Labels that it has learned."""
    digest: str
    """Structural digest of the model's state (never a hash of pickle bytes)."""
    river: str
    """Version of River."""
    learned_to: int
    """Next offset of the examples log: the model has learned all before it."""
    features: tuple[str, ...] = ()
    """Names of the features, in the definition's order."""
    features_version: str = ""
    """Of all features together, as predictions carry it in a header."""
    definition: str = ""
    """The model's class and all its constructor arguments, as text."""
    libraries: dict[str, str] = {}
    """Versions of `headrace`, `numpy`, `python` and `river` that wrote this."""
    key: str = ""
    """With `per=`: the key in whose race it serves."""


class WorkerStatus(Struct, frozen=True, omit_defaults=True, gc=False):
    """What one worker says of itself every few seconds, under its name: no key, id or value of an event.

    A record without a value says that it has left.
    """

    worker: str
    """Its name, which is the record's key: `group_instance_id`, or host name and port of its page."""
    time: int
    """When it said this, ms, by its own clock."""
    started: int
    """When it began to work, ms."""
    every_ms: int
    """When it speaks again; one that is silent for four times as long counts as gone."""
    version: str
    """Version of Headrace."""
    features_version: str = ""
    """Of the features that its file defines: workers with other files differ."""
    ready: bool = False
    """Whether it can answer events."""
    standing: str = ""
    """Why it cannot, or what it does: `ok`, or that it is a standby."""
    leading: bool = False
    """Whether it writes decisions."""
    paused: bool = False
    """Whether learning is paused."""
    partitions: int = 0
    """Partitions of events that it owns."""
    lag_records: int = 0
    """Events and labels that it has not read, of all its partitions."""
    lag: dict[str, dict[str, int]] = {}
    """The same by topic and partition, of the 64 longest."""
    answered: int = 0
    """Events answered since it began."""
    labelled: int = 0
    """Labels read since then."""
    refused: int = 0
    """Dead letters since then."""
    answered_per_s: float = 0.0
    """Since the record before, as the next two."""
    labelled_per_s: float = 0.0
    """Labels a second."""
    refused_per_s: float = 0.0
    """Dead letters a second."""
    scoring_p99_ms: float | None = None
    """From poll to send, of 99 %; null where nothing was answered, and beyond 60 s."""
    end_to_end_p50_ms: float | None = None
    """From a record's timestamp to the send of its answer, of half of them; null as before."""
    end_to_end_p99_ms: float | None = None
    """Of 99 %."""
    examples: int = 0
    """Examples that its models have learned."""
    unlearned: int = 0
    """Logged examples that they have not, a pause included."""
    champion: str = ""
    """Candidate that is champion here; empty with `per=`."""
    models: dict[str, str] = {}
    """`VERSION@UPDATES` of each candidate here, of the first 24; the champion is among them."""
    checkpoint_age_ms: int | None = None
    """Since its last checkpoint; null before the first."""
    unsaved: int = 0
    """Events answered since."""
    store_away_ms: int = 0
    """How long a checkpoint has waited for a store that cannot be used."""
    alerts: dict[str, int] = {}
    """Alerts of which it tells that fire, by policy."""
