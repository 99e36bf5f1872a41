"""Challengers start when it is time, whatever the batches; a worse service is told once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.drift.detectors import Detection
from operators.models.scoring import Racer, Roster
from operators.race.arena import Arena, Moment
from operators.race.candidates import Challenge, Drifted, Every, Worse, check_challenges
from operators.race.evidence import Promotion
from operators.versions.challenges import BEFORE_MIN, BUCKETS, DEVIATIONS, LOOK_EVERY, Challenges
from topics.errors import DefinitionError
from topics.messages import Example

RISEN = Detection("ADWIN", "loss", False, 0.1, 0.3, 500, 1)


class Model:
    """A model that is the number of its lessons."""

    def __init__(self, lessons=7):
        self.lessons = lessons

    def clone(self):
        return Model(0)


def copied(model):
    return Model(model.lessons)


def challenges(*given_challenges, **promotion):
    racers = [Racer("a", Model(), version=1, updates=7), Racer("b", Model(), version=2, updates=7)]
    arena = Arena(
        "p",
        0,
        Roster("binary", racers, "a"),
        Promotion(fresh_challengers_max=0, **promotion),
        given_challenges,
    )
    return arena, Challenges(
        arena, given_challenges, copied, lambda name: float(arena.roster.racers[name].version)
    )


def example(time):
    return Example("e", "k", time, time, True, {}, {}, 0.5, "champion", "a", 0, 0, 0, claim=1, sequence=0)


def run(found, times, losses, cuts=()):
    """Learn examples in batches that end at the cuts and at every stop; return what was decided."""
    decisions, n = [], 0
    ends = sorted(
        {*cuts, *(end for every in found.stops for end in range(0, len(times) + 1, every)), len(times)}
    )
    for end in ends:
        found.observe([example(time) for time in times[n:end]], [(loss, {}) for loss in losses[n:end]])
        n = max(n, end)
        if n and any(n % every == 0 for every in found.stops):
            decisions += found.stop(Moment(n, max(times[:n]), n))
    return decisions


def told(decisions):
    return [(d.type, d.model_name, d.reason, d.examples) for d in decisions]


def test_every_so_many_examples_and_the_oldest_makes_room():
    arena, found = challenges(Challenge(Every(100), max=2))
    assert found.stops == [100]
    decisions = run(found, range(350), [0.1] * 350)
    assert [d[:2] + d[3:] for d in told(decisions)] == [
        ("challenger.started", "a-3", 100),
        ("challenger.started", "a-4", 200),
        ("challenger.retired", "a-4", 300),
        ("challenger.started", "a-5", 300),
    ], "the one of the larger recent loss"
    assert decisions[0].reason == "every 100 examples"
    assert (arena.roster.racers["a-3"].model.lessons, arena.roster.racers["a-3"].updates) == (0, 0)


def test_a_copy_of_another_has_what_it_has_learned():
    arena, found = challenges(Challenge(Every(10), start="champion", of="b"))
    [decision] = run(found, range(15), [0.1] * 15)
    started = arena.roster.racers[decision.model_name]
    assert (decision.model_name, started.model.lessons, started.updates) == ("b-3", 7, 7)
    assert started.model is not arena.roster.racers["b"].model


def test_every_day_of_label_time():
    _, found = challenges(Challenge(Every("1d")))
    assert found.stops == [LOOK_EVERY]
    hour = 3_600_000
    decisions = run(found, [n * hour for n in range(500)], [0.1] * 500)
    days = [decision.time // (24 * hour) for decision in decisions if decision.type == "challenger.started"]
    assert days == sorted({(n - 1) // 24 for n in range(LOOK_EVERY, 501, LOOK_EVERY)})[1:]


def test_a_drift_starts_a_copy_at_the_next_stop_once_per_cooldown():
    arena, found = challenges(Challenge(Drifted(), start="champion"), cooldown=100)
    assert found.stops == [LOOK_EVERY]
    assert [d.type for d in arena.alarms(Moment(3, 3, 3), [RISEN], lambda _: 0.5)] == ["drift.detected"]
    assert [d.model_name for d in found.stop(Moment(64, 64, 64))] == ["a-3"]
    assert found.stop(Moment(128, 128, 128)) == []
    arena.alarms(Moment(130, 130, 130), [RISEN], lambda _: 0.5)
    assert found.stop(Moment(140, 140, 140)) == [], "within the cool-down"
    assert found.stop(Moment(192, 192, 192)) == [], "and it is no longer new"


def test_a_drift_starts_what_has_learned_nothing_at_once():
    arena, found = challenges(Challenge(Drifted(), of="b"))
    assert not found.stops
    assert [d.model_name for d in arena.alarms(Moment(3, 3, 3), [RISEN], lambda _: 0.5)] == ["a", "b-3"]


def test_nobody_starts_for_a_candidate_that_is_gone_or_sick():
    arena, found = challenges(Challenge(Every(10), of="b"))
    arena.quarantine(Moment(1, 1, 1), "b", "boom", lambda _: 0.5)
    assert run(found, range(10), [0.1] * 10) == []
    arena.retire(Moment(2, 2, 2), "b", "retire")
    assert found.stop(Moment(20, 20, 20)) == []


@pytest.mark.parametrize("than", [3_200, "3200s"])
def test_a_worse_service_starts_one_and_tells_so_once(than):
    rng = np.random.default_rng(3)
    _, found = challenges(Challenge(Worse(by=0.1, than=than)))
    losses = np.where(np.arange(8_000) < 4_000, 0.2, 0.4) + rng.normal(0, 0.1, 8_000)
    decisions = run(found, [n * 1_000 for n in range(8_000)], losses.tolist())
    [decision] = decisions
    assert 4_100 <= decision.examples <= 4_100 + 2 * LOOK_EVERY
    assert decision.evidence["recent"] == pytest.approx(0.4, abs=0.02)
    assert decision.evidence["before"] == pytest.approx(0.2, abs=0.02)
    assert decision.reason == f"what is served is worse than over {than}"


def worse_by_hand(losses, by, width):
    """Return the ends of the buckets at which it is time, by numpy."""
    ends, was = [], False
    buckets = [losses[n : n + width] for n in range(0, len(losses) - width, width)]
    for number, last in enumerate(buckets):
        before = buckets[max(0, number - BUCKETS) : number]
        if len(before) < BEFORE_MIN:
            continue
        rise = np.mean(last) - np.mean(np.concatenate(before))
        now = rise >= max(by, DEVIATIONS * np.std(last) / np.sqrt(len(last)))
        if now and not was:
            ends.append((number + 1) * width)
        was = now
    return ends


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sets(st.integers(1, 6_000), max_size=20), st.integers(1, 5_999))
def test_worse_is_what_numpy_says_however_it_is_cut_and_restored(seed, cuts, cut):
    rng = np.random.default_rng(seed)
    levels = np.repeat(rng.choice([0.2, 0.35, 0.5], 12), 500)
    losses = np.clip(levels + rng.normal(0, 0.2, 6_000), 0.0, 1.0)
    one = Challenge(Worse(by=0.1, than=BUCKETS * 100))
    times = list(range(6_000))
    expected = run(challenges(one, cooldown=0)[1], times, losses.tolist())
    started = [d.examples for d in expected if d.type == "challenger.started"]
    assert started == [-(-(end + 1) // LOOK_EVERY) * LOOK_EVERY for end in worse_by_hand(losses, 0.1, 100)]
    arena, found = challenges(one, cooldown=0)
    decisions, n = [], 0
    for end in sorted({*cuts, cut, *range(LOOK_EVERY, 6_001, LOOK_EVERY), 6_000}):
        found.observe([example(t) for t in times[n:end]], [(loss, {}) for loss in losses[n:end].tolist()])
        n = end
        if n % LOOK_EVERY == 0:
            decisions += found.stop(Moment(n, n - 1, n))
        if n == cut:
            again, restored = challenges(one, cooldown=0)
            again.restore(arena.snapshot())
            for name, racer in again.roster.racers.items():
                racer.model = arena.roster.racers[name].model
            restored.restore(found.snapshot())
            arena, found = again, restored
    assert decisions == expected


def test_what_stays_in_another_field_remembers():
    stays, goes, comes = Challenge(Every("1d")), Challenge(Every("1h")), Challenge(Every("2h"))
    _, found = challenges(stays, goes)
    found.stop(Moment(64, 5, 64))
    found.follow([stays, comes])
    day = 86_400_000
    assert [d.reason for d in found.stop(Moment(128, day, 128))] == ["every 1d"]
    assert [d.reason for d in found.stop(Moment(192, day + 7_200_000, 192))] == ["every 2h"]


def test_two_challenges_that_say_the_same_are_refused():
    with pytest.raises(DefinitionError, match="twice"):
        check_challenges([Challenge(Every(100)), Challenge(Every(50)), Challenge(Every(100))], ["a"])
