"""What a worker logs about itself while it runs: lines with figures, at most one a minute for each subject.

Lives here: counters that a person on call must hear of, dead letters by stage, labels that join no
prediction.  Never here: counting for metrics (`engine/metrics.py`), the race (`race_view.py`), a clock.

A record under another key than its own is taken all the same.  With one partition that changes nothing; with
several, the windows of its key and the label of an event may lie on another one, where the label joins
nothing and is counted as `unmatched`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import structlog

from engine.definition.streams import Labels
from engine.metrics import Counts
from topics.headers import Refusal, refusal_of
from topics.messages import Headers, Outgoing

__all__ = [
    "EVERY_S",
    "CountWatch",
    "CountedLine",
    "DeadLetters",
    "LabelWatch",
    "LetterWatch",
    "Unmatched",
    "counted_lines",
    "letter_lines",
    "unmatched",
]

EVERY_S = 60.0
"""Seconds between two lines of one subject at the least: a flood of causes is no flood of lines."""
REASON_SHOWN_MAX = 300
"""Characters of a reason that are shown; a message may quote what was sent."""
UNMATCHED_SHARE_MAX = 0.05
"""Beyond this, models learn from a selection."""
LABELS_MIN = 20
"""Of fewer labels a share says nothing: the span grows until there are so many."""

log = structlog.get_logger("headrace")


class Pace:
    """The interval between two lines of one matter; every time is of one clock that does not go back.

    >>> pace = Pace()
    >>> pace.allows(5.0), pace.logged(5.0), pace.allows(64.9), pace.allows(65.0)
    (True, None, False, True)
    """

    def __init__(self) -> None:
        self._due_s = float("-inf")

    def allows(self, now_s: float) -> bool:
        """Return whether a line may be logged at `now_s`."""
        return now_s >= self._due_s

    def logged(self, now_s: float) -> None:
        """Begin a new interval."""
        self._due_s = now_s + EVERY_S


class CountedLine(NamedTuple):
    """One log line and the counters that cause it."""

    event: str
    figures: Mapping[str, tuple[str, str]]
    """Counters by the field of the line that shows their growth."""
    advice: Mapping[str, object] = {}
    """Further fields of the line."""
    level: str = "warning"


def counted_lines(labels: Labels) -> tuple[CountedLine, ...]:
    """Return the lines of a worker whose labels are defined by `labels`."""
    return (
        CountedLine(
            "no model could answer: the prior did", {"predictions": ("predictions", "prior")}, level="error"
        ),
        CountedLine(
            "records lie under other keys than their own",
            {"events": ("key_mismatches", "event"), "labels": ("key_mismatches", "label")},
            {
                "fix": "send every event, and its label, with the key field's value as the record's key: "
                "`headrace send TOPIC FILE --key FIELD`"
            },
        ),
        CountedLine(
            "answers given up before their labels came: too many wait",
            {"count": ("predictions_dropped", "given_up")},
            {"pending_max": labels.pending_max, "fix": "raise pending_max or shorten wait"},
        ),
        CountedLine(
            "labels refused that came before their events: too many wait",
            {"count": ("labels", "given_up")},
            {"early_max": labels.early_max, "fix": "are their ids those of events? else raise early_max"},
        ),
        CountedLine(
            "clients of the pages were refused or cut off",
            {
                "without_token": ("page_refusals", "token"),
                "slow": ("page_refusals", "slow"),
                "crowded": ("page_refusals", "crowded"),
                "malformed": ("page_refusals", "malformed"),
                "streams": ("page_refusals", "streams"),
            },
            {"fix": "look for who asks; HEADRACE_WEB__HOST says on which address"},
        ),
    )


class CountWatch:
    """Logs each line when one of its counters has grown, at most once in EVERY_S.

    >>> watch = CountWatch([CountedLine("refused", {"labels": ("labels", "late")})])
    >>> with structlog.testing.capture_logs() as lines:
    ...     for second, late in enumerate((0, 2, 3)):
    ...         watch.tell({("labels", "late"): late}, second)
    ...     watch.tell({("labels", "late"): 3}, 61.0)
    >>> [line["labels"] for line in lines]
    [2, 1]
    """

    def __init__(self, lines: Sequence[CountedLine]) -> None:
        self._lines = [(line, Pace(), dict.fromkeys(line.figures, 0)) for line in lines]
        """Each with its interval and the counts that were logged last."""

    def tell(self, counts: Counts, now_s: float) -> None:
        """Log the counters that have grown since their last line; `now_s` is of a monotonic clock."""
        for line, pace, logged in self._lines:
            current = {name: counts.get(counter, 0) for name, counter in line.figures.items()}
            if current != logged and pace.allows(now_s):
                growth = {name: count - logged[name] for name, count in current.items()}
                getattr(log, line.level)(line.event, **growth, **line.advice)
                pace.logged(now_s)
                logged.update(current)


class DeadLetters:
    """Refused records by stage, with the first of each.

    >>> from topics.headers import dead_letter
    >>> from topics.messages import Record
    >>> letters = DeadLetters()
    >>> refused = Record("e", 0, 6, None, None, b"x")
    >>> _ = letters.add(dead_letter(refused, stage="decode", exception="ValueError", message="no JSON"))
    >>> letter_lines(letters.report({"e": "events.jsonl"}))
    ['1 decode: no JSON (events.jsonl line 7)']
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, Refusal] = {}
        """By stage; at most one of each."""

    def add(self, headers: Headers) -> Refusal:
        """Count a dead letter by its headers; return what they say."""
        refusal = refusal_of(headers)
        self.counts[refusal.stage] += 1
        self.first.setdefault(refusal.stage, refusal)
        return refusal

    def report(self, files: dict[str, str]) -> dict[str, dict[str, Any]]:
        """Return the count, the first message and its record by stage.

        `files` are names of files by topic, whose lines count from 1.
        """
        return {
            stage: {
                "count": count,
                "first": self.first[stage].message[:REASON_SHOWN_MAX],
                "place": _place(self.first[stage], files),
            }
            for stage, count in self.counts.items()
        }


def letter_lines(report: dict[str, dict[str, Any]]) -> list[str]:
    """Return a report of `DeadLetters` as one line a stage."""
    return [f"{one['count']:,} {stage}: {one['first']} ({one['place']})" for stage, one in report.items()]


def _place(refusal: Refusal, files: dict[str, str]) -> str:
    if refusal.topic in files:
        return f"{files[refusal.topic]} line {refusal.offset + 1}"
    return f"topic {refusal.topic} partition {refusal.partition} offset {refusal.offset}"


class LetterWatch:
    """The dead letters of a worker since the last line."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._pace = Pace()
        self._letters = DeadLetters()

    def see(self, letters: Sequence[Outgoing]) -> None:
        """Add dead letters that are being written."""
        for letter in letters:
            self._letters.add(letter.headers)

    def tell(self, _: Counts, now_s: float) -> None:
        """Log the dead letters since the last line; `now_s` is of a monotonic clock."""
        letters = self._letters
        if not letters.counts or not self._pace.allows(now_s):
            return
        self._letters = DeadLetters()
        self._pace.logged(now_s)
        log.warning(
            "records were refused",
            count=letters.counts.total(),
            stages=letters.report({}),
            fix=f"`headrace tail {self._topic} --from-beginning --headers` shows each with its reason",
        )


class Unmatched(NamedTuple):
    """The labels of a span, too many of which joined no prediction."""

    labels: int
    """Labels of the span that joined or were refused; if there are none, those that wait for their event."""
    unmatched: int
    share: float
    cause: str
    fix: str


def unmatched(span: Counts) -> Unmatched | None:
    """Return a finding about the labels of a span, or None where at most 5 % of them joined nothing.

    `span` holds counts by (metric, label), as scorers count them.
    """
    labels = {label: count for (metric, label), count in span.items() if metric == "labels"}
    early, late = labels.get("early", 0), labels.get("late", 0)
    joined = sum(labels.get(name, 0) for name in _JOINED)
    alone = labels.get("unmatched", 0) + late
    judged = joined + alone + sum(labels.get(name, 0) for name in _REFUSED)
    if judged < LABELS_MIN:
        if joined or early < LABELS_MIN:
            return None
        cause = "no event with the id of any of these labels has been read"
        return Unmatched(early, early, 1.0, cause, _COMPARE)
    share = alone / judged
    if share <= UNMATCHED_SHARE_MAX:
        return None
    given_up = span.get(("predictions_dropped", "given_up"), 0)
    forgotten = span.get(("predictions_dropped", "expired"), 0) + labels.get("implicit", 0)
    if given_up > forgotten:
        cause, fix = "more predictions waited than are kept, and the oldest were given up", _FEWER
    elif 2 * late > alone or 2 * forgotten >= alone:
        cause, fix = "they came when their predictions had waited for `wait` and were forgotten", _WAIT
    else:
        cause, fix = "no event with their ids was read in time", _COMPARE
    return Unmatched(judged, alone, round(share, 4), cause, fix)


_COMPARE = (
    "compare the id fields of events and labels, and their record keys: a label must have its event's key"
)
_WAIT = (
    "raise Labels(wait=...) beyond the longest delay; old data: send both files by one "
    "`headrace send PIPELINE.py --events E --labels L`"
)
_FEWER = "raise Labels(pending_max=...), or shorten wait"


class LabelWatch:
    """The labels of a worker since they were last judged.

    >>> watch = LabelWatch()
    >>> watch.look(0.0, Counter())
    >>> counts = Counter({("labels", "joined"): 90, ("labels", "unmatched"): 10})
    >>> finding = watch.look(60.0, counts)
    >>> finding.labels, finding.unmatched, finding.share
    (100, 10, 0.1)
    >>> watch.look(119.0, counts)
    """

    def __init__(self) -> None:
        self._pace = Pace()
        self._started = False
        self._before: Counts = Counter()

    def tell(self, counts: Counts, now_s: float) -> None:
        """Log the finding of `look`, if any."""
        if (finding := self.look(now_s, counts)) is not None:
            log.warning("labels find no prediction", **finding._asdict())

    def look(self, now_s: float, counts: Counts) -> Unmatched | None:
        """Return a finding about the labels since the last look; None within EVERY_S of it, without looking.

        The first call only begins the span.  `counts` only grow; `now_s` is of a monotonic clock.
        """
        if not self._pace.allows(now_s):
            return None
        self._pace.logged(now_s)
        if not self._started:
            self._started = True
            return None
        span = Counter(
            {key: count - self._before[key] for key, count in counts.items() if key[0] in _WATCHED}
        )
        finding = unmatched(span)
        if finding is not None or sum(count for key, count in span.items() if key[1] in _FATES) >= LABELS_MIN:
            self._before = Counter({key: counts[key] for key in span})
        return finding


_WATCHED = ("labels", "predictions_dropped")
_JOINED = ("joined", "collected", "revised", "corrected")
_REFUSED = ("duplicate", "conflicting", "outdated", "crowded")
_FATES = (*_JOINED, *_REFUSED, "late", "unmatched")
