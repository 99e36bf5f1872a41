"""Which windows are computed where, and that nothing of the definition is lost on the way."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from operators import by, field, label, lookup
from operators.language.plan import FeaturePlan, compile_features
from operators.rekeying.stages import looked_up, plan_stages
from operators.windows.features import Features
from topics.messages import Event


class Ride(msgspec.Struct):
    driver: str
    city: str
    shop: int
    fare: float


def compiled(**features: Any) -> FeaturePlan:
    return compile_features(features, Ride, grace_ms=0, max_events_per_key=99, task="binary")


@pytest.mark.parametrize(
    ("keys", "stages"),
    [
        ([("driver",)], []),
        ([("driver", "city")], []),
        ([("city",)], [("city",)]),
        ([("city", "shop"), ("city",)], [("city",)]),
        ([("city", "shop"), ("shop",), ("city",)], [("shop",), ("city",)]),
        ([("city", "shop")], [("city", "shop")]),
        ([(), ("city", "shop"), ("driver",)], [(), ("city", "shop")]),
    ],
)
def test_as_few_stages_as_serve_every_key(keys: list[tuple[str, ...]], stages: list[tuple[str, ...]]) -> None:
    plan = compiled(**{f"f{number}": by(*names).count("1h") for number, names in enumerate(keys)})
    found = plan_stages(plan, "driver")
    assert [stage.keys for stage in found.rekeyed] == stages
    assert [stage.number for stage in found.rekeyed] == list(range(1, len(stages) + 1))
    assert found.parts == 1 + len(stages)
    assert (found.own is not None) == any("driver" in names for names in keys)


def test_every_group_is_computed_in_one_place_and_the_answer_has_none() -> None:
    plan = compiled(
        a=by("driver").mean(label, "1h"),
        b=by("city").count("1h") / by("driver").count("2h"),
        c=by("city", "shop").max("fare", "1h").default(0.0),
        d=by().count(label, "1h"),
    )
    stages = plan_stages(plan, "driver")
    assert stages.own is not None
    parts = [stages.own, *(stage.plan for stage in stages.rekeyed)]
    assert sorted(map(repr, (group for part in parts for group in part.groups))) == sorted(
        map(repr, plan.groups)
    )
    assert stages.answer.groups == ()
    assert stages.answer.lookups == ()


def test_the_parts_together_give_what_the_whole_plan_gives() -> None:
    plan = compiled(
        fare=field("fare"),
        a=by("driver").count("1h"),
        b=by("city").mean("fare", "1h"),
        c=(by("city").mean("fare", "1h") / by("shop").sum("fare", "1h")).default(-1.0),
        d=-by().max("fare", "1m"),
        e=by("shop").mean("fare", "1s", include_current=False),
        f=by("shop").mean("fare", "1s", include_current=False).default(7.5),
        g=lookup("city:{city}", "size", default=3.0),
    )
    stages = plan_stages(plan, "driver")
    assert stages.own is not None
    whole, answer = Features(plan), Features(stages.answer)
    parts = [Features(part) for part in (stages.own, *(stage.plan for stage in stages.rekeyed))]
    for number in range(40):
        ride = Ride("de"[number % 2], "abc"[number % 3], number % 5, float(number % 7))
        event = Event(str(number), 700 * number, ride.driver, ride, number, 700 * number)
        values: dict[str, Any] = {}
        for part in parts:
            values |= part.step_events([event])[0]
        stored = {"city:{city}#size": 4.0}
        (expected,) = whole.step_events([event], [stored])
        (found,) = answer.step_events([event], [stored | looked_up(values)])
        assert found == expected
        assert list(found) == list(expected)
        assert {name: type(value) for name, value in found.items()} == {
            name: type(value) for name, value in expected.items()
        }


def test_the_printed_plan_names_key_width_and_windows() -> None:
    stages = plan_stages(compiled(a=by("city").count("1h"), b=by().count("1h")), "driver")
    rows = stages.describe(4)
    assert [(row["stage"], row["key"], row["partitions"]) for row in rows] == [
        ("0", "the topic's key", 4),
        ("1", "city", 4),
        ("2", "all events", 1),
    ]
    assert rows[1]["windows"] == ['by("city").count("1h")']
    assert rows[0]["windows"] == []
