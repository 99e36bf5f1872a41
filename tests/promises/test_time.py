"""Event time as a specification: one timeline per rule, read from left to right in the order of arrival.

Each table is played as it stands: its first rows are what comes in, the others what must come of it.
A dot is nothing.  All times are milliseconds; `-` stands where a value is missing.
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import chain
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import linear_model

from engine import Labels, Pipeline, Topic
from engine.machines.admission import Intake
from engine.machines.scorer import Scorer
from engine.offline.backtest import LocalRun
from operators import by
from operators.rekeying.merge import Merge
from topics.codec import decode_prediction
from topics.messages import Outgoing, Prediction, Record
from topics.rekeying import Order

GRACE_MS, WAIT_MS, MAX_AHEAD_MS = 50, 1_000, 3_000
FAR_MS = 10**6


class Payment(msgspec.Struct):
    event_id: str
    event_time: int
    card: str


PIPELINE = Pipeline(
    name="time",
    events=Topic("time.events", Payment, key="card", grace=GRACE_MS, max_ahead=MAX_AHEAD_MS),
    labels=Labels("time.labels", wait=WAIT_MS),
    features={"count": by("card").count(100), "since": by("card").since_last(100)},
    models={"linear": linear_model.LogisticRegression()},
)


def table(text: str) -> dict[str, list[str]]:
    """Return the rows of a timeline by their names, which end at two blanks or more."""
    rows = [line.strip().split("  ", 1) for line in text.strip().splitlines()]
    found = {name: cells.split() for name, cells in rows}
    assert len({len(cells) for cells in found.values()}) == 1, "every row has a cell for every arrival"
    return found


def event(offset: int, time: int, *, arrived: int | None = None, event_id: str = "") -> Record:
    value = {"event_id": event_id or f"e{offset}", "event_time": time, "card": "c"}
    return Record("time.events", 0, offset, arrived, b"c", json.dumps(value).encode())


def label(offset: int, event_id: str, time: int, *, arrived: int | None = None) -> Record:
    value = {"event_id": event_id, "label": True, "label_time": time}
    return Record("time.labels", 0, offset, arrived, b"c", json.dumps(value).encode())


def scorer(pipeline: Pipeline = PIPELINE) -> Scorer:
    return LocalRun(pipeline).scorer


def step(to: Scorer, record: Record, now_ms: int = FAR_MS) -> list[Outgoing]:
    """Let one record arrive; return what leaves."""
    offer = to.intake.offer_events if record.topic == "time.events" else to.intake.offer_labels
    offer([record], now_ms)
    run = to.intake.next_run(events_unread=False, labels_unread=False)
    assert run is not None
    return list(chain.from_iterable(to.step(run, now_ms)))


def answered(out: list[Outgoing]) -> Prediction:
    (found,) = (record for record in out if record.target == "predictions")
    return decode_prediction(found.value or b"")


def shown(value: object) -> str:
    return "-" if value is None else str(value)


IN_ORDER = """
    event time      100   140   160   250
    watermark        50    90   110   200
    late              .     .     .     .
    count             1     2     3     2
    since             -    40    20    90
"""
OUT_OF_ORDER = """
    event time      100   140   110   150
    watermark        50    90    90   100
    late              .     .     .     .
    count             1     2     2     4
    since             -    40    10    10
"""
LATE = """
    event time      100   200   149   210   150
    watermark        50   150   150   160   160
    late              .     .  late     .  late
    count             1     1     2     2     2
    since             -     -    49    10    50
"""
ON_THE_WATERMARK = """
    event time      100   200   150   200
    watermark        50   150   150   150
    late              .     .     .     .
    count             1     1     2     3
    since             -     -    50     0
"""


@pytest.mark.parametrize("timeline", [IN_ORDER, OUT_OF_ORDER, LATE, ON_THE_WATERMARK])
def test_the_watermark_is_the_largest_event_time_less_grace(timeline: str) -> None:
    """Not behind it, an event is put in its place; behind it, it is answered, flagged, and leaves no trace.

    A count is over (t - 100, t] of the event's own time: what is 100 before or comes later is not seen.
    """
    rows, to = table(timeline), scorer()
    for offset, time in enumerate(rows["event time"]):
        answer = answered(step(to, event(offset, int(time))))
        found = (
            to.admission.watermark,
            "late" if answer.late else ".",
            *map(answer.features.get, ("count", "since")),
        )
        wanted = [rows[name][offset] for name in ("watermark", "late", "count", "since")]
        assert [shown(value) for value in found] == wanted, f"event {offset} at {time}"


def test_an_event_far_ahead_of_its_arrival_is_refused() -> None:
    """Arrival is the earlier of the record's own time and the clock; the event may lie 3,000 ahead.

    arrived |------- max_ahead -------|
                                      x answered      x refused: the watermark stays
    """
    rows, to = (
        table("""
            record time      5000   5000   9000   9000      .      .
            clock            5000   5000   5000   5000   5000   5000
            event time       8000   8001   8000   8001   8000   9999
            outcome            ok   dead     ok   dead     ok     ok
            watermark        7950   7950   7950   7950   7950   9949
        """),
        scorer(),
    )
    for offset, time in enumerate(rows["event time"]):
        stamp = rows["record time"][offset]
        record = event(offset, int(time), arrived=None if stamp == "." else int(stamp))
        out = step(to, record, int(rows["clock"][offset]))
        assert [one.target for one in out] == [
            {"ok": "predictions", "dead": "dead-letters"}[rows["outcome"][offset]]
        ], offset
        assert to.admission.watermark == int(rows["watermark"][offset])
    assert to.counts["dead_letters", "time"] == 2


def test_a_label_far_ahead_of_its_arrival_is_refused_and_joins_nothing() -> None:
    """By the rule of events; what is in time still joins, though it came behind."""
    to = scorer()
    step(to, event(0, 100))
    ahead = label(0, "e0", 100 + MAX_AHEAD_MS + 1, arrived=100)
    (dead,) = step(to, ahead, 100)
    said = dict(dead.headers)
    assert (dead.target, said["headrace.errors.stage"]) == ("dead-letters", b"time")
    assert b"3001 ms ahead of its arrival" in said["__streams.errors.message"]
    assert b"max_ahead is 3000 ms" in said["__streams.errors.message"]
    step(to, label(1, "e0", 100 + WAIT_MS, arrived=100), 100)
    assert {what[1]: count for what, count in to.counts.items() if what[0] == "labels"} == {
        "ahead": 1,
        "joined": 1,
    }


MINUTE_MS = 60_000
NOW_MS = 1_700_000_000_000


def with_defaults(**changed: Any) -> Pipeline:
    """Return the pipeline with `max_ahead` left out."""
    return replace(PIPELINE, events=Topic("time.events", Payment, key="card", **changed))


@pytest.mark.parametrize(
    ("given", "max_ahead_ms"),
    [({}, MINUTE_MS), ({"grace": "5s"}, MINUTE_MS), ({"grace": "10m"}, 10 * MINUTE_MS)],
)
def test_max_ahead_is_the_grace_or_a_minute(given: dict[str, Any], max_ahead_ms: int) -> None:
    assert with_defaults(**given).max_ahead_ms == max_ahead_ms
    assert with_defaults(**given, max_ahead="1h").max_ahead_ms == 60 * MINUTE_MS


def test_one_clock_fifty_minutes_fast_makes_no_event_late() -> None:
    to = scorer(with_defaults())
    (dead,) = step(to, event(0, NOW_MS + 50 * MINUTE_MS, arrived=NOW_MS), NOW_MS)
    assert dead.target == "dead-letters"
    for number in range(1, 1_001):
        now_ms = NOW_MS + number
        step(to, event(number, now_ms, arrived=now_ms), now_ms)
    assert (to.counts["events", "accepted"], to.counts["events", "late"]) == (1_000, 0)


@given(
    st.lists(st.tuples(st.integers(0, 40_000), st.integers(-200_000, 200_000) | st.none()), max_size=30),
    st.sampled_from(["1m", "90s", "5m"]),
)
def test_no_clock_that_is_wrong_makes_an_event_late_whose_clock_is_right(
    arrivals: list[tuple[int, int | None]], grace: str
) -> None:
    """Each arrival is the time since the one before, and how wrong its clock is; None: right."""
    to, now_ms = scorer(with_defaults(grace=grace)), NOW_MS
    for offset, (later_ms, wrong_ms) in enumerate(arrivals):
        now_ms += later_ms
        out = step(to, event(offset, now_ms + (wrong_ms or 0), arrived=now_ms), now_ms)
        if wrong_ms is None:
            assert not answered(out).late


def test_each_partition_has_a_watermark_of_its_own() -> None:
    """A partition that runs ahead makes nothing late in another, and one without events holds nobody up."""
    rows = table("""
        partition           0      1      0      1      1
        event time       1000    100   2000     60     40
        watermark 0       950    950   1950   1950   1950
        watermark 1         -     50     50     50     50
        late                .      .      .      .   late
    """)
    to = {"0": scorer(), "1": scorer()}
    for offset, partition in enumerate(rows["partition"]):
        answer = answered(step(to[partition], event(offset, int(rows["event time"][offset]))))
        assert ("late" if answer.late else ".") == rows["late"][offset]
        for name, one in to.items():
            seen = one.admission.watermark if one.position.time_max >= 0 else None
            assert shown(seen) == rows[f"watermark {name}"][offset]


class Reading(msgspec.Struct):
    text: str = ""


def test_where_partitions_are_merged_an_idle_one_is_not_waited_for() -> None:
    """`a10`: an event of source a at 10; `a>25`: a has passed 25; `a~25`: it has, and has nothing to read.

    Source b falls asleep at 30, so 40 goes by a alone.  What b brings then from before goes at once, late.
    """
    rows, merge = (
        table("""
            said        a10   b20   a>25   b>15   b~30   a40   a>45   b35   b>60   a>70   b65   b>65
            goes          .     .      .    a10    b20     .    a40   b35      .      .     .    b65
            late          .     .      .      .      .     .      .  late      .      .     .      .
        """),
        Merge(2, Reading),
    )
    for number, said in enumerate(rows["said"]):
        source, sign = "ab".index(said[0]), said[1]
        if sign in ">~":
            taken = merge.progress(source, int(said[2:]), idle=sign == "~")
        else:
            taken = merge.offer(Order(int(said[1:]), 0, source, number), Reading(said))
        assert ("+".join(one.item.text for one in taken) or ".") == rows["goes"][number], said
        assert any(one.late for one in taken) == (rows["late"][number] == "late")


@pytest.mark.parametrize(
    ("events", "labels", "unread", "goes"),
    [
        ("10 20 30", "20 25", "neither", "e10 l20 e20 l25 e30"),  # the older head, labels on ties
        ("10 20", "", "labels", ""),  # a label of 5 may lie unread: wait
        ("10 20", "", "neither", "e10 e20"),  # there is none: go on
        ("10 20", "15", "labels", "e10 l15"),  # then the queue is empty again: wait
        ("", "15", "events", ""),
        ("10", "15", "events", "e10"),
    ],
)
def test_an_empty_queue_is_waited_for_while_its_topic_has_unread_records(
    events: str, labels: str, unread: str, goes: str
) -> None:
    """Catching up after an outage so expires no prediction whose label lies unread."""
    intake = Intake(PIPELINE.event_decoder(), PIPELINE.label_decoder())
    intake.offer_events([event(n, int(time)) for n, time in enumerate(events.split())])
    intake.offer_labels([label(n, f"e{n}", int(time)) for n, time in enumerate(labels.split())])
    found: list[str] = []
    while run := intake.next_run(events_unread=unread == "events", labels_unread=unread == "labels"):
        found += [f"e{one.time}" for one in run.events] + [f"l{one.time}" for one in run.labels]
    assert " ".join(found) == goes


@pytest.mark.parametrize(
    ("arrivals", "outcome"),
    [
        ("e0@100 l0@1100", "joined"),  # until event_time + wait
        ("e0@100 l0@1101", "late"),
        ("e0@100 e1@1150 l0@1100", "joined"),  # the watermark, 1100, has not passed it
        ("e0@100 e1@1151 l0@1100", "early"),  # it has: the event is forgotten, the label waits for one
        ("l0@90 e0@100", "joined"),  # the label first
        ("l0@100 e1@1151 e0@1101", "unmatched"),  # it waits until label_time + wait
        ("e0@100 l0@200 l0@300", "duplicate"),
    ],
)
def test_a_label_joins_until_its_event_has_waited(arrivals: str, outcome: str) -> None:
    """Waiting is event time, by the watermark: `e1@1150` is an event at 1150, `l0@200` a label of e0 at 200.

    event_time |------------- wait 1000 -------------| forgotten
    """
    to = scorer()
    for offset, arrival in enumerate(arrivals.split()):
        name, _, time = arrival.partition("@")
        if name[0] == "e":
            step(to, event(offset, int(time), event_id=name))
        else:
            step(to, label(offset, f"e{name[1:]}", int(time)))
    assert to.counts["labels", outcome] == 1, to.counts


def test_clocks_never_enter_the_state() -> None:
    """The same records on another day leave the same state to the byte, but for stamps of predictions."""
    times, states = (100, 140, 110, 300), []
    for now_ms in (FAR_MS, 7 * FAR_MS):
        to: Any = scorer()
        for offset, time in enumerate(times):
            step(to, event(offset, time), now_ms)
        state = to.snapshot()
        states.append({name: data for name, data in state.items() if not name.startswith("join/w/")})
        assert any(name.startswith("features/") for name in state)
    assert states[0] == states[1]
