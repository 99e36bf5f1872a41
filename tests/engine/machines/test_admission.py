"""One order for two topics: the older head first, labels on ties, empty queues waited for while unread."""

import json

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from engine.machines.admission import RUN_MAX, Intake
from topics.codec import EventDecoder, LabelDecoder
from topics.messages import Record


class Event(msgspec.Struct):
    event_id: str
    event_time: int
    key: str


def intake(**settings: int) -> Intake:
    events = EventDecoder(Event, event_id="event_id", event_time="event_time", key="key")
    return Intake(events, LabelDecoder("binary"), **settings)


def event(offset: int, time: int) -> Record:
    body = {"event_id": f"e{offset}", "event_time": time, "key": "k"}
    return Record("e", 0, offset, None, None, json.dumps(body).encode())


def label(offset: int, time: int) -> Record:
    body = {"event_id": f"e{offset}", "label": True, "label_time": time}
    return Record("l", 0, offset, None, None, json.dumps(body).encode())


def order(made: Intake, **unread: bool) -> list[tuple[str, int]]:
    flags = {"events_unread": False, "labels_unread": False, **unread}
    found = []
    while run := made.next_run(**flags):
        assert bool(run.events) != bool(run.labels)
        found += [("e", read.time) for read in run.events] + [("l", read.time) for read in run.labels]
    return found


def test_the_older_head_goes_first_and_labels_on_ties() -> None:
    made = intake()
    made.offer_events([event(0, 10), event(1, 20), event(2, 30)])
    made.offer_labels([label(0, 20), label(1, 25)])
    assert order(made) == [("e", 10), ("l", 20), ("e", 20), ("l", 25), ("e", 30)]


def test_an_empty_queue_is_waited_for_only_while_its_topic_has_unread_records() -> None:
    made = intake()
    made.offer_events([event(0, 10)])
    assert made.next_run(events_unread=False, labels_unread=True) is None
    assert order(made) == [("e", 10)]
    made.offer_labels([label(0, 5)])
    assert made.next_run(events_unread=True, labels_unread=False) is None
    assert order(made) == [("l", 5)]


def test_what_cannot_be_decoded_goes_at_once_in_its_place() -> None:
    made = intake()
    made.offer_events([event(0, 50), replace(event(1, 10), value=b"{")])
    made.offer_labels([replace(label(0, 30), value=b"{"), label(1, 40)])
    assert order(made) == [("l", -1), ("l", 40), ("e", 50), ("e", -1)]


def test_a_time_far_ahead_goes_at_once_and_holds_nothing_back() -> None:
    """A label of the year 9999 would be older than no event: all labels behind it would wait for it."""
    made = intake(max_ahead_ms=100)
    made.offer_events(
        [replace(event(n, time), timestamp_ms=10) for n, time in enumerate((20, 99_999, 30))], 10
    )
    made.offer_labels(
        [replace(label(n, time), timestamp_ms=10) for n, time in enumerate((99_999, 25, 110))], 10
    )
    assert order(made) == [("l", -1), ("e", 20), ("e", -1), ("l", 25), ("e", 30), ("l", 110)]


def test_records_to_skip_are_refused_undecoded_in_their_place() -> None:
    made, decoded = intake(), []
    whole = made._decode_events
    made._decode_events = lambda records: decoded.extend(records) or whole(records)  # type: ignore[func-returns-value]
    made.skip = {("e", 0, 1), ("l", 0, 0), ("other", 0, 2), ("e", 1, 2)}
    events = [event(0, 10), event(1, 20), event(2, 30)]
    made.offer_events(events)
    made.offer_labels([label(0, 15), label(1, 25)])
    found = []
    while run := made.next_run(events_unread=False, labels_unread=False):
        found += [
            (one.record.topic, one.record.offset, getattr(one.decoded, "stage", ""))
            for one in run.events or run.labels
        ]
    assert found == [("l", 0, "skip"), ("e", 0, ""), ("e", 1, "skip"), ("l", 1, ""), ("e", 2, "")]
    assert decoded == [events[0], events[2]]


def test_runs_are_bounded() -> None:
    made = intake()
    made.offer_events([event(n, n) for n in range(RUN_MAX + 5)])
    first = made.next_run(events_unread=False, labels_unread=False)
    assert first is not None
    assert len(first.events) == RUN_MAX
    assert len(made) == 5


def test_the_order_holds_across_the_runs_in_which_events_are_decoded() -> None:
    made = intake()
    made.offer_events([event(n, 10 * n) for n in range(3 * RUN_MAX)])
    made.offer_labels([label(n, 70 * n) for n in range(20)])
    found = order(made)
    assert found == sorted(found, key=lambda read: (read[1], read[0] == "e"))
    assert len(found) == 3 * RUN_MAX + 20


times = st.lists(st.integers(0, 40), max_size=20)


@given(times, times, st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_the_order_does_not_depend_on_how_records_arrive(
    event_times: list[int], label_times: list[int], sizes: list[int]
) -> None:
    events = [event(n, time) for n, time in enumerate(event_times)]
    labels = [label(n, time) for n, time in enumerate(label_times)]
    whole, parts = intake(), intake()
    whole.offer_events(events)
    whole.offer_labels(labels)
    expected = order(whole)
    found: list[tuple[str, int]] = []
    turn = 0
    while events or labels or len(parts):
        size = sizes[turn % len(sizes)]
        turn += 1
        if turn % 2:
            parts.offer_events(events[:size])
            events = events[size:]
        else:
            parts.offer_labels(labels[:size])
            labels = labels[size:]
        found += order(parts, events_unread=bool(events), labels_unread=bool(labels))
    assert found == expected
