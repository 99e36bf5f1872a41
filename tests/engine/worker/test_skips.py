"""`--skip`: which records can be named, and what is said of the others."""

from __future__ import annotations

import msgspec
import pytest
from river import linear_model

from engine import Labels, Pipeline, Topic
from engine.worker.skips import PLACES_MAX, places
from operators import field
from topics.errors import SettingsError


class Reading(msgspec.Struct):
    event_id: str
    event_time: int
    sensor: str
    value: float


PIPELINE = Pipeline(
    name="skips",
    events=Topic("my.readings", Reading, key="sensor", partitions=2),
    labels=Labels("my.truths", wait="1h"),
    features={"value": field("value")},
    models={"linear": linear_model.LogisticRegression()},
)


def test_records_of_events_and_labels_can_be_named() -> None:
    assert places(["my.readings:1:0", "my.truths:0:1234", "my.readings:1:0"], PIPELINE) == {
        ("my.readings", 1, 0),
        ("my.truths", 0, 1234),
    }
    assert places([], PIPELINE) == frozenset()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("my.readings", "TOPIC:PARTITION:OFFSET"),
        ("my.readings:0", "TOPIC:PARTITION:OFFSET"),
        ("my.readings:0:-1", "TOPIC:PARTITION:OFFSET"),
        ("my.readings:0:1:2", "TOPIC:PARTITION:OFFSET"),
        ("my.readings::1", "my.readings:0:1234"),
        ("skips.predictions:0:1", "no record of my.readings or my.truths"),
        ("my.truths:2:1", "partitions 0 to 1"),
    ],
)
def test_whatever_else_is_named_is_refused_with_the_form(given: str, says: str) -> None:
    with pytest.raises(SettingsError) as refused:
        places([given], PIPELINE)
    assert says in str(refused.value)


def test_skips_are_for_single_records() -> None:
    with pytest.raises(SettingsError, match=str(PLACES_MAX + 1)):
        places([f"my.readings:0:{n}" for n in range(PLACES_MAX + 1)], PIPELINE)
