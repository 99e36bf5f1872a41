"""Alerts beside a worker's loop: what was on its way is sent again, what fires keeps its id."""

from __future__ import annotations

from collections import Counter

from msgspec import Struct
from river import linear_model

from engine import Alert, Labels, Pipeline, Topic, signal
from engine.alerts.delivery import Delivery
from engine.alerts.surroundings import Surroundings, WorkerAlerts
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
    alerts=[
        Alert(when=signal("lag_records") > 10),
        Alert(when=signal("lag_records") > 1_000, name="far-behind"),
    ],
)


def test_who_takes_a_partition_over_goes_on_under_its_id_whatever_other_alerts_there_are() -> None:
    first = WorkerAlerts(PIPELINE, Counter())
    (told,) = first.look(1_000, Surroundings(frozenset({3}), 20, 0.0, 0.0))
    heir = WorkerAlerts(PIPELINE, Counter())
    heir.adopt(frozenset({1, 3}), [told])
    assert heir.look(2_000, Surroundings(frozenset({1, 3}), 20, 0.0, 0.0)) == []
    (over,) = heir.look(3_000, Surroundings(frozenset({1, 3}), 0, 0.0, 0.0))
    assert (over.state, over.alert_id) == ("resolved", told.alert_id)


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
