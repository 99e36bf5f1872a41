"""The loop of the book: release, hold, set back; what the gate costs in false holds, and what it stops."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.models.scoring import Racer, Roster
from operators.race.arena import Arena, Moment
from operators.race.candidates import Candidate, Release
from operators.race.evidence import Promotion
from operators.versions.release import BLOCKS, BLOCKS_MIN, WORSE_DEVIATIONS, Releases, with_twins

EVERY = 64


def releases(every=EVERY, held_max=3):
    """A released candidate whose model is the text of what it has learned."""
    field = {"a": Candidate("", release=Release(every, held_max)), "b": Candidate("")}
    racers = with_twins([Racer("a", "", version=1), Racer("b", "", version=2)], field, str)
    arena = Arena("p", 0, Roster("binary", racers, "a"), Promotion())
    return arena, Releases(arena, field, str)


def feed(found, arena, losses):
    """Learn as many examples as there are pairs of losses (released, twin); stop where it is time."""
    decisions = []
    learned = arena.examples = getattr(arena, "examples", 0)
    for released, twin in losses:
        arena.roster.racers["a-twin"].updates += 1
        found.observe([SimpleNamespace()], [(released, {"a": released, "a-twin": twin, "b": 0.5})])
        learned += 1
        if learned % EVERY == 0:
            decisions += found.stop(Moment(learned, learned, learned))
    arena.examples = learned
    return decisions


def kinds(decisions):
    return [(d.type, d.model_name, d.model_version) for d in decisions]


def test_two_race_and_only_the_twin_learns():
    arena, found = releases()
    racers = arena.roster.racers
    assert {name: (r.learns, r.twin_of, r.version) for name, r in racers.items()} == {
        "a": (False, "", 1),
        "b": (True, "", 2),
        "a-twin": (True, "a", 3),
    }
    assert arena.states == {"a": "champion", "b": "challenger", "a-twin": "twin"}
    assert found.stops == [EVERY]


def test_a_twin_that_is_no_worse_is_the_next_version():
    arena, found = releases()
    rng = np.random.default_rng(1)
    decisions = feed(found, arena, rng.random((2 * EVERY, 2)))
    assert kinds(decisions) == [("version.released", "a", 4), ("version.released", "a", 5)]
    assert [d.evidence["released"] for d in decisions] == ["3@64", "3@128"]
    assert [(d.from_version, d.evidence["replaced"]) for d in decisions] == [(1, "1@0"), (4, "4@64")]
    assert arena.roster.racers["a"].updates == 128
    assert not arena.roster.racers["a"].learns


def test_a_worse_twin_is_held_and_after_three_times_set_back():
    arena, found = releases()
    decisions = feed(found, arena, [(0.2 + 0.01 * (n % 3), 0.3) for n in range(4 * EVERY)])
    assert kinds(decisions) == [
        ("version.held", "a", 1),
        ("version.held", "a", 1),
        ("version.held", "a", 1),
        ("version.restored", "a-twin", 4),
        ("version.held", "a", 1),
    ]
    assert [d.evidence["held"] for d in decisions if d.type == "version.held"] == [1, 2, 3, 1]
    assert decisions[3].evidence["restored"] == "1@0"
    assert arena.roster.racers["a-twin"].updates == EVERY


@pytest.mark.parametrize("gone", ["a", "a-twin"])
def test_nothing_is_released_while_one_of_the_two_is_sick(gone):
    arena, found = releases()
    arena.quarantine(Moment(0, 0, 0), gone, "boom", lambda _: 0.5)
    assert feed(found, arena, [(0.5, 0.1)] * 2 * EVERY) == []


def test_a_twin_that_has_learned_nothing_is_not_released_again():
    arena, found = releases()
    arena.roster.racers["a-twin"].updates -= EVERY
    assert feed(found, arena, [(0.5, 0.5)] * EVERY) == []


def test_the_twin_is_never_promoted_and_leaves_with_its_release():
    arena, _ = releases()
    arena.quarantine(Moment(0, 0, 0), "b", "boom", lambda _: 0.5)
    [*_, last] = arena.quarantine(Moment(1, 0, 0), "a", "boom", lambda _: 0.0)
    assert last.type == "model.quarantined", "a twin is no successor"
    arena, _ = releases()
    arena.crown("b", Moment(0, 0, 0), "command")
    assert [d.model_name for d in arena.retire(Moment(1, 0, 0), "a", "retire")] == ["a", "a-twin"]
    assert list(arena.roster.racers) == ["b"]


def held_by_hand(pairs):
    """Return whether numpy would hold the twin over these pairs of losses."""
    blocks = np.array(pairs)[:, 1] - np.array(pairs)[:, 0]
    blocks = blocks[: len(blocks) // 2 * 2].reshape(-1, EVERY // BLOCKS).mean(axis=1)
    if len(blocks) < BLOCKS_MIN:
        return False
    error = blocks.std(ddof=1) / math.sqrt(len(blocks))
    return bool(blocks.mean() >= WORSE_DEVIATIONS * error and blocks.mean() > 0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-0.1, 0.2), st.integers(1, 6), st.integers(0, 400))
def test_the_gate_is_students_t_and_a_restored_one_goes_on(seed, shift, points, cut):
    rng = np.random.default_rng(seed)
    pairs = np.clip(rng.normal([0.3, 0.3 + shift], 0.1, (points * EVERY, 2)), 0.0, 1.0).tolist()
    arena, found = releases()
    expected = feed(found, arena, pairs)
    told = [d.type == "version.held" for d in expected if d.type != "version.restored"]
    assert told == [held_by_hand(pairs[n : n + EVERY]) for n in range(0, len(pairs), EVERY)]
    arena, found = releases()
    decisions = feed(found, arena, pairs[:cut])
    again, restored = releases()
    again.restore(arena.snapshot())
    for name, racer in again.roster.racers.items():
        racer.model = arena.roster.racers[name].model
    again.examples = min(cut, len(pairs))
    restored.restore(found.snapshot())
    decisions += feed(restored, again, pairs[cut:])
    assert decisions == expected
    assert restored.snapshot() == found.snapshot() or cut < len(pairs)


def test_equals_are_held_at_one_point_of_a_hundred():
    rng = np.random.default_rng(7)
    differences = rng.normal(0.0, 0.2, (20_000, BLOCKS))
    deviations = differences.mean(axis=1) / (differences.std(axis=1, ddof=1) / math.sqrt(BLOCKS))
    assert np.mean(deviations >= WORSE_DEVIATIONS) == pytest.approx(0.01, abs=0.003)
