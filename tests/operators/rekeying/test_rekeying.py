"""Windows by other keys over several partitions equal, event by event, those over one log of all events."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from rekeying_world import CLASSES, Input, World, brute_force, make_pipeline
from river import tree

from engine import Labels
from engine.rekeying.rekeying import Rekeying
from operators import apply, by, cross, decay, field, last_n, session, tiled, tumbling
from operators.claims.rule import LoggedMessages
from operators.windows.evaluate import FUNCTION_FAILURES
from topics.messages import Record

PARTITIONS = 4
EVENTS = 200


def play(
    seed: int,
    *,
    crashes: int = 0,
    given: dict[str, Any] | None = None,
    resident_max: int | None = None,
    forgetful: bool = False,
    **changed: Any,
) -> tuple[World, dict[str, Any]]:
    rng = random.Random(seed)
    records = Input(rng, partitions=PARTITIONS, **({"events": EVENTS} | (given or {})))
    pipeline = make_pipeline(partitions=PARTITIONS, **changed)
    world = World(pipeline, records, rng, resident_max=resident_max, forgetful=forgetful)
    world.run(crashes=crashes)
    return world, brute_force(records, **changed)


def is_ride(record: Record) -> bool:
    return b'"fare"' in (record.value or b"")


@pytest.mark.parametrize("seed", range(3))
def test_any_interleaving_gives_the_brute_force_answer(seed: int) -> None:
    world, expected = play(seed)
    assert len(expected) == EVENTS
    assert not world.late
    assert world.answers == expected


@pytest.mark.parametrize("seed", range(6))
def test_crashes_and_zombies_change_nothing(seed: int) -> None:
    world, expected = play(100 + seed, crashes=6)
    assert world.answers == expected
    assert world.repeats
    assert world.suppressed


@pytest.mark.parametrize("seed", range(2))
def test_stores_that_go_back_or_are_emptied_change_nothing(seed: int) -> None:
    world, expected = play(500 + seed, crashes=6, forgetful=True)
    assert world.answers == expected
    assert world.behind
    assert world.suppressed


@pytest.mark.parametrize("seed", range(4))
def test_what_a_router_remembers_on_disk_changes_nothing(seed: int) -> None:
    world, expected = play(300 + seed, crashes=4, resident_max=2)
    assert world.answers == expected
    assert world.reads > 50


@pytest.mark.parametrize(
    ("changed", "given"),
    [
        ({"labels": Labels(field="truth")}, {}),
        ({"grace": 0}, {"disorder_ms": 0}),
        ({}, {"busy": 2}),
        (CLASSES, {}),
    ],
    ids=["labels inside", "no grace", "idle partitions", "classes"],
)
@pytest.mark.parametrize("seed", range(2))
def test_every_kind_of_pipeline(changed: dict[str, Any], given: dict[str, Any], seed: int) -> None:
    world, expected = play(200 + seed, crashes=3, given=given, **changed)
    assert world.answers == expected
    assert not world.late


@pytest.mark.parametrize("seed", range(3))
def test_implicit_labels_come_when_their_partitions_watermark_passes(seed: int) -> None:
    """At the end partitions fall idle, and no time passes in them any more: no deadline either."""
    labels = Labels("rides.labels", wait="20s", on_timeout=False)
    world, expected = play(300 + seed, crashes=3, given={"labelled": 0.5}, labels=labels)
    steady = world.given.steady
    assert len(steady) > EVENTS // 2
    assert {name: world.answers[name] for name in steady} == {name: expected[name] for name in steady}
    assert world.answers.keys() == expected.keys()


def test_a_source_taken_for_idle_is_answered_late_and_holds_nobody_up() -> None:
    rng = random.Random(7)
    given = Input(rng, partitions=PARTITIONS, events=EVENTS)
    world = World(make_pipeline(partitions=PARTITIONS), given, rng)
    world.silent = {1}
    world.pace[1] = 0.02
    world.run()
    expected = brute_force(given)
    assert world.answers.keys() == expected.keys()
    assert world.late
    counted = sum(owner.rekeying.counts["rekeyed", "late"] for owner in world.owners)
    assert counted >= len(world.late)


def test_order_per_key_is_kept() -> None:
    world, _ = play(11, crashes=4)
    for number, owner in enumerate(world.owners):
        ids = world.answered_order[number]
        first = {event_id: place for place, event_id in reversed(list(enumerate(ids)))}
        log = list(filter(is_ride, world.given.events[number]))
        assert owner.done
        assert sorted(first, key=first.__getitem__) == list(dict.fromkeys(map(world.event_id, log)))


class _NoMemory(LoggedMessages):
    """A replay that does not know what is logged."""

    def once(self, found: Any) -> bool:
        return super().once(found) and False


def test_without_suppression_a_replay_would_count_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("operators.claims.rule.LoggedMessages", _NoMemory)
    wrong = 0
    for seed in range(3):
        try:
            world, expected = play(300 + seed, crashes=6)
        except AssertionError:
            wrong += 1
        else:
            wrong += world.answers != expected
    assert wrong


def test_a_partition_runs_ahead_of_the_slowest_by_no_more_than_its_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("engine.rekeying.rekeying.OUTSTANDING_MAX", 10)
    monkeypatch.setattr("engine.rekeying.rekeying.RUN_MAX", 4)
    monkeypatch.setattr("engine.machines.admission.RUN_MAX", 4)
    rng = random.Random(5)
    given = Input(rng, partitions=PARTITIONS, events=EVENTS)
    world = World(make_pipeline(partitions=PARTITIONS, grace=0), given, rng)
    world.pace[2] = 0.05
    held: list[int] = []
    turn = Rekeying.turn

    def watched(self: Rekeying, *args: Any, **kwargs: Any) -> Any:
        held.append(len(self.enricher))
        return turn(self, *args, **kwargs)

    monkeypatch.setattr(Rekeying, "turn", watched)
    world.run()
    labels_and_stages = 2 * 3
    assert max(held) <= PARTITIONS * (10 + 4) * labels_and_stages
    assert world.answers.keys() == brute_force(given, grace=0).keys()


def fare_of_two(fare: float, shop: int) -> float:
    if shop == 2:
        raise ValueError(shop)
    return fare * shop


@pytest.mark.parametrize(
    "feature",
    [
        by("city").median("fare", tumbling("30s")),
        by("shop").mean("fare", last_n(5, within="2m")),
        by("city").count(session("3s")),
        by("shop").mean("fare", decay("20s")),
        by("city").sum("fare", tiled("1m", step="10s")),
        by().arg_max("driver", "fare", "20s"),
        by("city").count("1m", where=field("fare") > 4),
        by("city").mean((field("fare") * 2).log(), "30s"),
        by("shop").arg_max(cross(field("driver"), field("city")), -field("fare"), "1m"),
        by().sum(apply(fare_of_two, field("fare"), field("shop"), returns=float), tumbling("20s")),
    ],
    ids=repr,
)
def test_every_kind_of_window_travels(feature: Any) -> None:
    takes_text = {"tree": tree.HoeffdingTreeClassifier()}
    features = {"x": feature, "n": by("driver").count("10s")}
    world, expected = play(400, crashes=4, features=features, models=takes_text)
    assert world.answers == expected


def test_a_function_that_raises_is_counted_where_its_windows_are() -> None:
    """At the topic's own key and at that of a stage: once each for an event."""
    fare = apply(fare_of_two, field("fare"), field("shop"), returns=float)
    features = {"own": by("driver").sum(fare, "1m"), "other": by("city").sum(fare, "1m")}
    world, expected = play(500, features=features)
    assert world.answers == expected
    records = [record for log in world.given.events for record in log if is_ride(record)]
    rides = [msgspec.json.decode(record.value or b"") for record in records]
    raised = {ride["event_id"] for ride in rides if ride["shop"] == 2}
    name = f"{__name__}:{fare_of_two.__qualname__}"
    counted = sum(owner.rekeying.counts[FUNCTION_FAILURES, name] for owner in world.owners)
    assert counted == 2 * len(raised)
