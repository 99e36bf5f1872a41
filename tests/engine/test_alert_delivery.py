"""What happens once is told once, and again where it was on its way when the leader lost the broker."""

from __future__ import annotations

from collections import Counter

from msgspec import Struct
from river import linear_model

from engine import Labels, Pipeline, Topic
from engine.alerts.delivery import Delivery
from engine.settings import Settings
from operators import field
from topics.messages import AlertRecord


class Reading(Struct):
    event_id: str
    event_time: int
    sensor: str
    value: float


PIPELINE = Pipeline(
    name="told",
    events=Topic("told.readings", Reading, key="sensor"),
    labels=Labels("told.truths", wait="5s"),
    features={"value": field("value")},
    models={"lr": linear_model.LogisticRegression()},
    champion="lr",
)


def once(number: int) -> AlertRecord:
    return AlertRecord(f"told:new::{number}", "new", "told", "new_category", "info", 5, 5, "so it is")


def test_what_was_on_its_way_is_sent_again_and_what_arrived_is_not() -> None:
    delivery = Delivery(PIPELINE, Settings(), Counter(), lambda: True)
    assert not delivery._repeated(once(1))
    assert delivery._repeated(once(1)), "another partition tells of it too"
    assert not delivery._repeated(once(2))
    delivery._remember([once(1)])  # it leads anew, and only the first is known to have arrived
    assert delivery._repeated(once(1))
    assert not delivery._repeated(once(2))
