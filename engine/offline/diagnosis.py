"""Why a run failed, in words: what was seen, which mistake explains it, what to do.

Lives here: when a run has failed, and the mistakes that people make.  Never here: counting, files, colours.

    failed?    no example learned, or more than half of the events or of the labels came to nothing
    causes     each mistake is looked for on its own, in the counts and in the first lines of the inputs
               (`json_lines.py`); one that makes others meaningless ends the search
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from engine.offline.json_lines import FirstLines, delays_ms
from topics.durations import duration_text
from topics.messages import Task

__all__ = ["Cause", "Diagnosis", "Facts", "InputFiles", "diagnose", "failures"]

FAILED_SHARE = 0.5
"""Above this share of events or labels that came to nothing a run has failed."""
DISORDER_SHARE = 0.05
"""Above this share of lines older than the newest before them a file is in no order of time."""
COMMON_SHARE = 0.5
"""Below this share of labels whose event is known, ids are said not to match."""
DELAY_QUANTILE = 0.99
"""`wait` should hold so many of the delays."""
_UNITS_MS = (1_000, 60_000, 3_600_000, 86_400_000)


class Facts(NamedTuple):
    """The counts of a run."""

    task: Task
    wait_ms: int
    inside: bool
    """Labels come inside the events."""
    events: int
    labels: int
    examples: int
    outcomes: Mapping[tuple[str, str], int]
    """The scorer's counts, by (metric, label)."""
    first: Mapping[str, str]
    """The first message of each stage of dead letters."""
    labels_waiting: int
    """Labels whose event had not come when the run ended."""

    def count(self, metric: str, *labels: str) -> int:
        """Return the sum of some counts."""
        return sum(self.outcomes.get((metric, label), 0) for label in labels)

    @property
    def refused(self) -> int:
        """Return how many events were refused."""
        return self.count("dead_letters", "decode", "time", "rule")

    @property
    def expired(self) -> int:
        """Return how many events were answered and never learned."""
        return self.count("predictions_dropped", "expired", "given_up") + self.beyond

    @property
    def beyond(self) -> int:
        """Return how many events came when their wait was over."""
        return self.count("events", "beyond_horizon")

    @property
    def labels_refused(self) -> int:
        """Return how many labels were refused as such."""
        return self.count("dead_letters", "label")

    @property
    def labels_lost(self) -> int:
        """Return how many labels met no prediction in time."""
        return self.count("labels", "late", "unmatched", "given_up") + self.labels_waiting


class InputFiles(NamedTuple):
    """The first lines of both inputs, and what they decode as."""

    events: FirstLines
    labels: FirstLines
    events_name: str
    """As a person knows it: the file's name."""
    labels_name: str
    events_as_labels: int
    """Lines of the events that are labels by the definition."""
    labels_as_events: int
    """Lines of the labels that are events by the definition."""
    label_names: tuple[str, str, str] = ("event_id", "label", "label_time")


class Cause(NamedTuple):
    """One mistake that explains what was seen."""

    what: str
    fix: str


class Diagnosis(NamedTuple):
    """Why a run failed."""

    failures: tuple[str, ...]
    causes: tuple[Cause, ...]

    def plain(self) -> dict[str, Any]:
        """Return it as one plain object."""
        return {"failures": list(self.failures), "causes": [cause._asdict() for cause in self.causes]}


def failures(facts: Facts) -> tuple[str, ...]:
    """Return what makes this run a failure; empty where it went well.

    >>> facts = Facts("binary", 1_000, False, 10, 10, 0, {("labels", "unmatched"): 10}, {}, 0)
    >>> failures(facts)
    ('no example was learned from 10 events', '10 of 10 labels met no prediction in time')
    """
    said = []
    if not facts.examples:
        said.append(f"no example was learned from {facts.events:,} events")
    for count, of, what in (
        (facts.refused, facts.events, "events were refused"),
        (facts.expired, facts.events, "events waited for their label in vain"),
        (facts.labels_refused, facts.labels, "labels were refused"),
        (facts.labels_lost, facts.labels, "labels met no prediction in time"),
    ):
        if count > of * FAILED_SHARE:
            said.append(f"{count:,} of {of:,} {what}")
    together = facts.refused + facts.expired
    if not said and together > facts.events * FAILED_SHARE:
        said.append(
            f"{together:,} of {facts.events:,} events were refused, or waited for their label in vain"
        )
    together = facts.labels_refused + facts.labels_lost
    if not said and together > facts.labels * FAILED_SHARE:
        said.append(f"{together:,} of {facts.labels:,} labels were refused, or met no prediction in time")
    return tuple(said)


def diagnose(facts: Facts, inputs: InputFiles) -> Diagnosis:
    """Return what failed and which mistakes explain it; the first one is the likeliest."""
    causes = tuple(_files(facts, inputs)) or (*_events(facts, inputs), *_labels(facts, inputs))
    return Diagnosis(failures(facts), causes or (Cause(*_unknown(facts)),))


def _files(facts: Facts, inputs: InputFiles) -> Iterator[Cause]:
    """Yield what is wrong with whole files: nothing else means anything then."""
    events, labels, events_name, labels_name, *_ = inputs
    heads = [("--events", events, events_name)]
    if not facts.inside:
        heads.append(("--labels", labels, labels_name))
        swapped = inputs.events_as_labels > events.lines / 2, inputs.labels_as_events > labels.lines / 2
        if all(swapped) and facts.refused + facts.labels_refused:
            yield Cause(
                f"the files are swapped: {events_name} holds labels, {labels_name} holds events",
                f"give --events {labels_name} --labels {events_name}",
            )
            return
        if swapped[0] and facts.refused > facts.events / 2:
            yield Cause(f"{events_name} holds labels, no events", "give --events the file of events")
            return
        if swapped[1] and facts.labels_refused > facts.labels / 2:
            yield Cause(f"{labels_name} holds events, no labels", "give --labels the file of labels")
            return
    for option, head, name in heads:
        if not head.lines:
            yield Cause(f"{name} holds no line", f"give {option} a file with one JSON object a line")
        elif head.objects <= head.lines / 2:
            yield Cause(
                f"{name} holds {_format(head)}, no JSON lines: {head.first!r}", _lines_fix(head, name)
            )


def _format(head: FirstLines) -> str:
    if head.first.startswith("["):
        return "a JSON array"
    if head.first.startswith("{"):
        return "JSON over several lines"
    return "CSV" if "," in head.first or ";" in head.first or "\t" in head.first else "text"


def _lines_fix(head: FirstLines, name: str) -> str:
    if head.first.startswith(("[", "{")):
        return f"write one object a line: jq -c '{'.[]' if head.first.startswith('[') else '.'}' {name}"
    return (
        "write one JSON object a line: "
        f'python -c "import csv, json; [print(json.dumps(row)) for row in csv.DictReader(open({name!r}))]" '
        "gives text; numbers and times need their types"
    )


def _events(facts: Facts, inputs: InputFiles) -> Iterator[Cause]:
    """Yield what is wrong with events."""
    head, name = inputs.events, inputs.events_name
    if head.seconds > head.lines / 2:
        yield Cause(
            f"times of {name} are seconds; milliseconds since the epoch are wanted",
            "multiply them by 1,000, or write RFC 3339 text and declare the field as datetime",
        )
    elif facts.refused > facts.events * FAILED_SHARE:
        stage = "rule" if facts.count("dead_letters", "rule") > facts.refused / 2 else "decode"
        said = facts.first.get(stage) or next(iter(facts.first.values()), "")
        if " label is " in said and (wrong := _task(facts, head)) is not None:
            yield wrong
        elif head.missing:
            lacking, _ = head.missing.most_common(1)[0]
            yield Cause(
                f"events of {name} have no field `{lacking}`; theirs are {', '.join(head.fields)}",
                "name the fields of the Struct as they stand in the messages, or give them a default",
            )
        elif stage == "rule":
            yield Cause(f"the rules refuse most events: {said}", "change the rule's bound or its action")
        else:
            yield Cause(
                f"events of {name} do not fit their type: {said}",
                "declare the field as it is sent; one that may be absent has a default",
            )
    elif facts.inside and not facts.examples and not head.labels:
        yield Cause(
            f"no event of {name} carries a label in the field that Labels(field=...) names",
            "name the field as it stands in the messages, or give the labels a topic and a file of their own",
        )
    if facts.beyond > facts.events * FAILED_SHARE or (
        facts.expired and head.backwards > head.lines * DISORDER_SHARE
    ):
        yield Cause(f"{name} is not in the order of its times", f"sort it by time; {_SORTED}")


_SORTED = "events that come after `wait` has passed are answered, not learned"


def _labels(facts: Facts, inputs: InputFiles) -> Iterator[Cause]:
    """Yield what is wrong with labels, and between labels and events."""
    if facts.inside:
        return
    head, name = inputs.labels, inputs.labels_name
    id_name, _, time = inputs.label_names
    if head.missing and sum(head.missing.values()) > head.objects / 2:
        lacking = ", ".join(f"`{field}`" for field in sorted(head.missing))
        yield Cause(
            f"labels of {name} have no field {lacking}; theirs are {', '.join(head.fields)}",
            "name them in the definition: Labels(..., id=..., label=..., time=...)",
        )
        return
    if head.seconds > head.lines / 2:
        yield Cause(
            f"`{time}` of {name} is seconds; milliseconds since the epoch are wanted", "multiply it by 1,000"
        )
        return
    if facts.labels_refused:
        if (wrong := _task(facts, head)) is not None:
            yield wrong
        else:
            yield Cause(
                f"labels of {name} are refused: {facts.first.get('label', '')}",
                f"a label message has `{id_name}`, a label that fits task={facts.task!r}, and `{time}` in ms",
            )
    elif facts.labels_lost or facts.expired:
        yield from _between(facts, inputs)


_LABEL_FORMS: dict[Task, frozenset[str]] = {
    "binary": frozenset({"bool", "zero or one"}),
    "multiclass": frozenset({"text", "whole number", "zero or one"}),
    "regression": frozenset({"number", "whole number", "zero or one"}),
}
"""What labels of a task may be, by the forms of `FirstLines.labels`."""
_GUESSES: tuple[Task, ...] = ("binary", "multiclass", "regression")


def _task(facts: Facts, head: FirstLines) -> Cause | None:
    """Return what task the labels are of, where that is another one."""
    wrong = {form: count for form, count in head.labels.items() if form not in _LABEL_FORMS[facts.task]}
    if not wrong:
        return None
    form = max(wrong, key=lambda form: wrong[form])
    meant = next((task for task in _GUESSES if form in _LABEL_FORMS[task] and task != facts.task), None)
    if meant is None:
        return None
    return Cause(
        f"the models' task is {facts.task}, the labels are of another: {head.label} ({form})",
        f"write Pipeline(..., task={meant!r}), with models for it",
    )


def _between(facts: Facts, inputs: InputFiles) -> Iterator[Cause]:
    """Yield why labels and events that are fine in themselves do not meet."""
    events, labels = inputs.events, inputs.labels
    common = sum(event_id in events.ids for event_id in labels.ids)
    if labels.ids and events.ids and common < len(labels.ids) * COMMON_SHARE:
        ours = next(
            (event_id for event_id in events.ids if event_id not in labels.ids), next(iter(events.ids))
        )
        theirs = next(event_id for event_id in labels.ids if event_id not in events.ids)
        few = (
            "no label has" if not common else f"only {common:,} of the first {len(labels.ids):,} labels have"
        )
        yield Cause(
            f"ids do not match: {few} the id of an event; an event's is {ours!r}, a label's {theirs!r}",
            "send the event's own id with its label, or name the right field: Topic(id=...), Labels(id=...)",
        )
        return
    given_up = facts.count("predictions_dropped", "given_up"), facts.count("labels", "given_up")
    if sum(given_up) > FAILED_SHARE * facts.events:
        yield Cause(
            f"more waited than is kept: {given_up[0]:,} answers and {given_up[1]:,} labels were given up",
            "raise Labels(pending_max=...) for answers, Labels(early_max=...) for labels before their events",
        )
        return
    delays = delays_ms(events, labels)
    if delays:
        median, most = delays[len(delays) // 2], delays[int((len(delays) - 1) * DELAY_QUANTILE)]
        if median < 0:
            yield Cause(
                f"labels are dated before their events, half of them by {about(-median)} or more",
                "`label_time` is when the label became known; look at both fields and their time zones",
            )
        elif most > facts.wait_ms:
            late = sum(delay > facts.wait_ms for delay in delays)
            yield Cause(
                f"`wait` is {duration_text(facts.wait_ms)}, but labels take longer: half of them "
                f"{about(median)} or more, {DELAY_QUANTILE:.0%} up to {about(most)}; {late:,} of "
                f"{len(delays):,} are too late",
                f'write Labels(..., wait="{rounded_up(most)}")',
            )
            return
    if labels.backwards > labels.lines * DISORDER_SHARE:
        yield Cause(
            f"{inputs.labels_name} is not in the order of `{inputs.label_names[2]}`",
            "sort it by that field: line order is the order of arrival",
        )
    elif facts.expired > facts.events * FAILED_SHARE and facts.labels < facts.events * FAILED_SHARE:
        yield Cause(
            f"there are {facts.labels:,} labels for {facts.events:,} events",
            "give the labels of all events; where none means something, say what: Labels(on_timeout=False)",
        )


def about(span_ms: int) -> str:
    """Return a span as a person would say it.

    >>> about(900), about(95_000), about(5_400_000), about(200_000_000)
    ('900ms', '95s', '90m', '55.6h')
    """
    for unit_ms, unit in ((3_600_000, "h"), (60_000, "m"), (1_000, "s")):
        if span_ms >= 2 * unit_ms or (unit == "m" and span_ms >= 100_000):
            return f"{span_ms / unit_ms:.3g}{unit}" if span_ms % unit_ms else f"{span_ms // unit_ms}{unit}"
    return f"{span_ms}ms"


def rounded_up(span_ms: int) -> str:
    """Return the next longer span in whole units, with a tenth to spare.

    >>> rounded_up(95_000), rounded_up(5_400_000), rounded_up(200_000_000), rounded_up(10)
    ('105s', '99m', '62h', '1s')
    """
    wanted = span_ms * 11 // 10
    unit_ms = max((unit for unit in _UNITS_MS if unit * 3 <= wanted), default=_UNITS_MS[0])
    return duration_text(-(-wanted // unit_ms) * unit_ms or unit_ms)


def _unknown(facts: Facts) -> tuple[str, str]:
    counts = ", ".join(
        f"{metric} {label} {count:,}"
        for (metric, label), count in sorted(facts.outcomes.items())
        if count and metric in {"events", "labels", "predictions_dropped", "dead_letters"}
    )
    return f"no usual mistake explains it; counted were: {counts or 'nothing'}", (
        "write the refused records with --dead-letters-out FILE and look at their reasons"
    )
