"""A record under another key than its own is counted, and taken all the same."""

from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import linear_model
from test_scorer import scorer_of

from engine import Labels, Pipeline, Topic
from engine.machines.admission import Admission, Position
from operators import field
from operators.join.join import Join
from operators.join.pending import Waiting
from topics.codec import encode_json
from topics.messages import Record


class Flight(msgspec.Struct):
    event_id: str
    event_time: int
    origin: str
    distance: float


def pipeline_of(partitions: int) -> Pipeline:
    return Pipeline(
        name="keys",
        events=Topic("keys.events", Flight, key="origin", partitions=partitions),
        labels=Labels("keys.labels", wait="1h"),
        features={"distance": field("distance")},
        models={"lr": linear_model.LogisticRegression()},
    )


def counted(partitions: int, event_key: bytes | None, label_key: bytes | None) -> tuple[Counter[Any], int]:
    pipeline = pipeline_of(partitions)
    scorer = scorer_of(pipeline)
    now = 1_700_000_000_000
    event = {"event_id": "e", "event_time": now, "origin": "JFK", "distance": 1.0}
    label = {"event_id": "e", "label": True, "label_time": now + 5}
    scorer.intake.offer_events([Record("keys.events", 0, 0, now, event_key, encode_json(event))])
    scorer.intake.offer_labels([Record("keys.labels", 0, 0, now, label_key, encode_json(label))])
    while run := scorer.intake.next_run(events_unread=False, labels_unread=False):
        list(scorer.step(run, now))
    found = Counter(
        {kind: count for (name, kind), count in scorer.counts.items() if name == "key_mismatches"}
    )
    return found, scorer.counts["labels", "joined"]


@pytest.mark.parametrize(
    ("partitions", "event_key", "label_key", "expected"),
    [
        (1, b"JFK", b"JFK", {}),
        (1, None, None, {}),
        (4, b"JFK", b"JFK", {}),
        (1, b"LGA", b"JFK", {"event": 1}),
        (1, b"JFK", b"e", {"label": 1}),
        (4, b"JFK", b'"JFK"', {"label": 1}),
        (4, None, None, {"event": 1, "label": 1}),
    ],
)
def test_other_keys_are_counted_and_the_records_taken(
    partitions: int, event_key: bytes | None, label_key: bytes | None, expected: dict[str, int]
) -> None:
    assert counted(partitions, event_key, label_key) == (Counter(expected), 1)


@given(st.lists(st.sampled_from([b"a", b"b", b"", None])), st.booleans())
def test_a_run_is_counted_record_by_record(keys: list[bytes | None], keyless: bool) -> None:
    join: Join[Waiting] = Join(wait_ms=0, implicit=None)
    admission = Admission(pipeline_of(4 if keyless else 1), Position(), join)
    wrong = [key != b"a" and (keyless or key is not None) for key in keys]
    assert [admission.is_misplaced(key, "a") for key in keys] == wrong
