"""A policy that learns, played over the log of another: its way is the way it would have gone."""

from __future__ import annotations

import pickle
from typing import Any, NamedTuple

import numpy as np
import pytest
from msgspec.structs import replace
from river import bandit, linear_model

from operators.models.scoring import Racer, Roster
from operators.race.arena import Arena, Moment
from operators.race.evidence import Promotion
from operators.race.field import RaceField
from operators.race.routing import Bandit, Policy, Split
from operators.serving.off_policy import Logged, off_policy
from operators.serving.policy_machine import Setting
from operators.serving.policy_replay import Replayed, played
from operators.serving.routes import routing_of
from topics.messages import Example

RUNS = 40
EVENTS = 500
ERROR = 0.05
MISSES_MAX = ERROR + 3 * (ERROR * (1 - ERROR) / RUNS) ** 0.5
EFFECTS = {"a": 0.0, "b": 0.25, "c": -0.1}
LOGGED = {"a": 0.5, "b": 0.25, "c": 0.25}
"""Shares by which the log was written."""
POLICIES: dict[str, Policy] = {
    "ucb": Bandit(bandit.UCB(0.3), outcome="served", every=20, explore=0.05),
    "epsilon": Bandit(bandit.EpsilonGreedy(0.2), outcome="served", every=20, explore=0.05),
}


class World(NamedTuple):
    """What users did, and what is true of them."""

    examples: list[Example]
    chances: np.ndarray[Any, Any]
    """Of each example, by arm: how likely a click is."""


def world(rng: np.random.Generator, events: int = EVENTS) -> World:
    """Users who differ and come back; arms by hash of the event; labels come up to 40 events later."""
    base, arms = rng.beta(4.0, 6.0, 150), list(EFFECTS)
    who, picked = rng.integers(0, 150, events), rng.choice(3, events, p=list(LOGGED.values()))
    chances = np.clip(base[who][:, None] + np.array([*EFFECTS.values()]), 0.0, 1.0)
    delays = rng.integers(0, 40, events)
    order = sorted(range(events), key=lambda n: n + delays[n])
    examples = [
        Example(
            f"e{n}", f"u{who[n]}", n, n + int(delays[n]), bool(rng.random() < chances[n, picked[n]]), {},
            {name: float(base[who[n]]) for name in arms}, 0.5, "arm", arms[picked[n]], 0, n, n, 1, n,
            policy="split", policy_revision=1, propensity=LOGGED[arms[picked[n]]],
        )
        for n in order
    ]  # fmt: skip
    return World(examples, chances[order])


def field(policy: Policy) -> RaceField:
    models = {name: linear_model.LogisticRegression() for name in EFFECTS}
    return RaceField.of(models, champion="a", serving=policy)


def went(policy: Policy, made: World, *, served: bool = True) -> Replayed:
    return played("shop", "binary", field(policy), made.examples, wait_ms=40, served=served)


def rows_of(made: World) -> list[Logged]:
    return [
        Logged(one.key, one.model_name, one.propensity or 1.0, float(one.label), one.scores)  # type: ignore[arg-type]
        for one in made.examples
    ]


@pytest.fixture(scope="module")
def runs() -> dict[str, list[tuple[World, Replayed]]]:
    rng = np.random.default_rng(12)
    worlds = [world(rng) for _ in range(RUNS)]
    return {name: [(made, went(policy, made)) for made in worlds] for name, policy in POLICIES.items()}


@pytest.mark.parametrize("name", POLICIES)
def test_intervals_cover_what_the_policy_gives_on_its_way(
    runs: dict[str, list[tuple[World, Replayed]]], name: str
) -> None:
    missed = np.zeros(3)
    for made, way in runs[name]:
        chances = np.array([[one.get(arm, 0.0) for arm in EFFECTS] for one in way.chances])
        truth = float((chances * made.chances).sum(1).mean())
        found = off_policy(rows_of(made), way.chances)
        missed += [not one.low <= truth <= one.high for one in found]
    assert max(missed / RUNS) <= MISSES_MAX, missed


def live(policy: Policy, rng: np.random.Generator, events: int) -> dict[str, float]:
    """Let a policy answer users itself; return its shares at the end."""
    roster = Roster("binary", [Racer(n, None, version=v) for v, n in enumerate(EFFECTS, 1)], "a")
    setting = Setting(f"live/{rng.random()}", Arena("shop", 0, roster, Promotion()), 40)
    machine: Any = routing_of(
        policy, setting, task="binary", threshold=0.5, objective="brier", dump=pickle.dumps, load=pickle.loads
    )
    base, waiting = rng.beta(4.0, 6.0, 150), list[tuple[int, Example]]()
    for n in range(events):
        user = int(rng.integers(0, 150))
        table = roster.routing
        pick = None if table is None else table.pick(f"u{user}", f"e{n}", n)
        name = roster.champion if pick is None else pick.name
        told = {} if pick is None else {"policy_revision": pick.revision, "propensity": pick.propensity}
        clicked = bool(rng.random() < min(max(base[user] + EFFECTS[name], 0.0), 1.0))
        due = n + int(rng.integers(0, 10))  # of four events of the log it learns from one
        example = Example(
            f"e{n}", f"u{user}", n, due, clicked, {}, {}, 0.5, "arm", name, 0, n, n, 1, n,
            policy="" if pick is None else pick.policy, **told,  # type: ignore[arg-type]
        )  # fmt: skip
        waiting.append((due, example))
        come = sorted((one for one in waiting if one[0] <= n), key=lambda one: one[0])
        waiting = [one for one in waiting if one[0] > n]
        for _, known in come:
            if machine.observe(known, {}):
                machine.act(Moment(n, n, n))
    return {roster.champion: 1.0} if roster.routing is None else dict(roster.routing.shares)


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_has_learned_what_it_would_have_learned_alive(
    runs: dict[str, list[tuple[World, Replayed]]], name: str
) -> None:
    """After as many events as it could learn from, its share of the best arm is, on average, that of life."""
    rng = np.random.default_rng(13)
    ends = [way.chances[-1].get("b", 0.0) for _, way in runs[name]]
    learned = int(np.mean([way.learned for _, way in runs[name]]))
    lived = [live(POLICIES[name], rng, learned).get("b", 0.0) for _ in range(RUNS)]
    spread = (np.var(ends) + np.var(lived)) ** 0.5 / RUNS**0.5
    assert abs(np.mean(ends) - np.mean(lived)) <= 3 * spread + 0.02, (np.mean(ends), np.mean(lived))


def test_a_split_ends_in_the_log_as_it_does_alive() -> None:
    made = world(np.random.default_rng(17), 6_000)
    way = went(Split({"a": 0.5, "b": 0.5}, outcome="served", min_examples=200), made)
    assert [one.type for one in way.decisions] == ["split.decided", "model.promoted"]
    assert (way.chances[0], way.chances[-1]) == ({"a": 0.5, "b": 0.5}, {"b": 1.0})
    assert float(way.decisions[0].evidence["low"]) <= EFFECTS["b"] <= float(way.decisions[0].evidence["high"])
    chances = np.array([[one.get(arm, 0.0) for arm in EFFECTS] for one in way.chances])
    truth = float((chances * made.chances).sum(1).mean())
    *_, dr = off_policy(rows_of(made), way.chances)
    assert dr.low <= truth <= dr.high
    assert dr.high - dr.low < 0.1


def test_it_learns_from_the_same_share_of_every_arms_events() -> None:
    """Least propensity: a quarter of the events that it would have picked the same."""
    made = world(np.random.default_rng(14), 4_000)
    way = went(Split({"a": 0.5, "b": 0.5}, outcome="served", unit="event", min_examples=10**9), made)
    assert 0.22 * 4_000 < way.learned < 0.28 * 4_000
    assert way.chances == [{"a": 0.5, "b": 0.5}] * 4_000


def test_an_event_is_answered_by_what_was_known_by_its_time() -> None:
    """The labels of the first half come at the end: nothing may have been learned before."""
    made = world(np.random.default_rng(15), 200)
    late = [one.event_time for one in made.examples]
    examples = sorted(made.examples, key=lambda one: one.event_time)
    held = [replace(one, label_time=max(late) + 1 + n) for n, one in enumerate(examples)]
    way = played("shop", "binary", field(POLICIES["ucb"]), held, wait_ms=40, served=True)
    assert len({tuple(one.items()) for one in way.chances}) == 1
    at_once = [replace(one, label_time=one.event_time) for one in examples]
    way = played("shop", "binary", field(POLICIES["ucb"]), at_once, wait_ms=40, served=True)
    assert len({tuple(one.items()) for one in way.chances}) > 1


def test_where_labels_are_shared_it_learns_from_all_of_them() -> None:
    made = world(np.random.default_rng(16), 300)
    way = went(Bandit(bandit.UCB(0.3), every=20, explore=0.05), made, served=False)
    assert way.learned == 300
