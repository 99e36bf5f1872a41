"""Simulated users with known truth: intervals cover it, aborts come, a bandit loses less than a split."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from river import bandit, proba

from operators.models.scoring import Racer, Roster
from operators.race.arena import Arena, Moment
from operators.race.evidence import Promotion
from operators.race.routing import Bandit, Canary, Guard, Policy, Split, Switchback
from operators.serving.canary import CanaryMachine
from operators.serving.intervals import BUCKETS, MeanInterval, arm_differences
from operators.serving.policy_machine import Setting
from operators.serving.routes import routing_of
from operators.serving.split import SplitMachine
from operators.serving.switchback import SwitchbackMachine
from topics.messages import Decision, Example

RUNS = 500
ERROR = 0.05
HOUR_MS = 3_600_000


def miss_rate_max(error: float, runs: int) -> float:
    """The share of misses that a true error makes likely: three deviations above it."""
    return error + 3 * (error * (1 - error) / runs) ** 0.5


def machine_of(policy: Policy, names: str = "ab", wait_ms: int = 0) -> tuple[Any, Roster]:
    roster = Roster("binary", [Racer(n, None, version=v) for v, n in enumerate(names, 1)], names[0])
    setting = Setting("shop", Arena("shop", 0, roster, Promotion()), wait_ms)
    made = routing_of(
        policy, setting, task="binary", threshold=0.5, objective="brier", dump=pickle.dumps, load=pickle.loads
    )
    return made, roster


def asked(roster: Roster, number: int, key: str, time: int) -> tuple[str, dict[str, Any]]:
    """Who answers an event, and what its example says of that."""
    table = roster.routing
    if table is None:
        return roster.champion, {"served_by": "champion", "model_name": roster.champion}
    pick = table.pick(key, f"e{number}", time)
    told = {"policy": pick.policy, "policy_revision": pick.revision, "propensity": pick.propensity}
    return pick.name, {"served_by": "arm", "model_name": pick.name, **told}


def example_of(number: int, key: str, time: int, label: Any, told: dict[str, Any], **more: Any) -> Example:
    fixed = {"features": {}, "scores": {}, "served_score": 0.5, "source_partition": 0, "label_offset": number}
    return Example(
        f"e{number}", key, time, time, label, event_offset=number, claim=1, sequence=number,
        **{**fixed, **told, **more},
    )  # fmt: skip


def step(machine: Any, example: Example, losses: dict[str, float | None] | None = None) -> list[Decision]:
    at = Moment(example.event_offset, example.label_time, example.event_offset)
    decisions: list[Decision] = machine.act(at) if machine.observe(example, losses or {}) else []
    return decisions


# -- split --------------------------------------------------------------------------------------------


def users(rng: np.random.Generator, runs: int, count: int) -> tuple[Any, Any, Any]:
    """How active users are, how often each clicks by itself, which half of them has the other arm."""
    activity = rng.pareto(1.5, count) + 0.2
    return activity / activity.sum(), rng.beta(1.0, 2.0, (runs, count)), rng.random((runs, count)) < 0.5


@pytest.mark.parametrize("effect", [0.0, 0.05])
def test_the_interval_of_a_split_covers_the_truth_at_every_look(effect: float) -> None:
    """Users come back again and again and differ more from one another than the arms do."""
    rng = np.random.default_rng(7)
    count, looks, each = 600, 20, 300
    activity, base, other = users(rng, RUNS, count)
    shifted = np.clip(base + effect, 0.0, 1.0)
    truth = (activity * (shifted - base)).sum(1)
    bucket = rng.integers(0, BUCKETS, (RUNS, count)) + np.arange(RUNS)[:, None] * BUCKETS
    sums = np.zeros((2, 2, RUNS, BUCKETS))
    missed = np.zeros(RUNS, dtype=bool)
    for look in range(looks):
        who = rng.choice(count, (RUNS, each), p=activity)
        arm, place = np.take_along_axis(other, who, 1), np.take_along_axis(bucket, who, 1)
        chance = np.where(arm, np.take_along_axis(shifted, who, 1), np.take_along_axis(base, who, 1))
        clicked = (rng.random((RUNS, each)) < chance).astype(float)
        for number, mask in enumerate((arm, ~arm)):
            for kind, weights in enumerate((np.ones_like(clicked), clicked)):
                found = np.bincount(place[mask], weights[mask], RUNS * BUCKETS)
                sums[number, kind] += found.reshape(RUNS, BUCKETS)
        if look >= 3:
            low, high, _ = arm_differences(*sums[0], *sums[1], ERROR)
            missed |= (truth < low) | (truth > high)
    assert missed.mean() <= miss_rate_max(ERROR, RUNS)


def test_events_taken_for_witnesses_would_not_cover_it() -> None:
    """What buckets are for: the usual interval over events leaves the truth out far too often."""
    rng = np.random.default_rng(8)
    activity, base, other = users(rng, RUNS, 600)
    who = rng.choice(600, (RUNS, 6_000), p=activity)
    arm = np.take_along_axis(other, who, 1)
    clicked = rng.random(who.shape) < np.take_along_axis(base, who, 1)
    means = [(clicked & mask).sum(1) / mask.sum(1) for mask in (arm, ~arm)]
    spread = np.sqrt(sum(m * (1 - m) / n.sum(1) for m, n in zip(means, (arm, ~arm), strict=True)))
    assert (abs(means[0] - means[1]) > 1.96 * spread).mean() > 3 * ERROR


def run_split(effect: float, events: int, seed: int = 3) -> tuple[SplitMachine, Roster, list[Decision]]:
    rng = np.random.default_rng(seed)
    machine, roster = machine_of(Split({"a": 0.5, "b": 0.5}, outcome="served", min_examples=500))
    base = rng.beta(2.0, 4.0, 2_000)
    decisions: list[Decision] = []
    for number, user in enumerate(rng.integers(0, 2_000, events)):
        key = f"user-{user}"
        name, told = asked(roster, number, key, number)
        label = bool(rng.random() < base[user] + (effect if name == "b" else 0.0))
        decisions += step(machine, example_of(number, key, number, label, told))
        if decisions:
            break
    assert isinstance(machine, SplitMachine)
    return machine, roster, decisions


def test_a_split_ends_with_the_better_arm_as_champion() -> None:
    machine, roster, decisions = run_split(0.15, 20_000)
    assert [one.type for one in decisions] == ["split.decided", "model.promoted"]
    evidence = decisions[0].evidence
    assert 0.0 < float(evidence["low"]) < 0.15 < float(evidence["high"])
    assert (roster.champion, roster.routing, machine.table) == ("b", None, None)
    assert decisions[1].reason == "split"


def test_a_split_without_a_difference_goes_on() -> None:
    machine, roster, decisions = run_split(0.0, 12_000)
    assert not decisions
    assert roster.routing is not None
    found = machine.intervals()["a", "b"]
    assert found.low < 0.0 < found.high
    assert found.high - found.low < 0.2


# -- switchback ---------------------------------------------------------------------------------------


def test_the_interval_of_a_switchback_covers_the_truth() -> None:
    """Demand has its hours, outcomes of a block come together; the arm is better by what it is."""
    rng = np.random.default_rng(11)
    pairs, effect = 60, 0.05
    hours = 0.4 + 0.25 * np.sin(np.arange(2 * pairs) * 2 * np.pi / 24)
    blocks = np.clip(hours + rng.normal(0.0, 0.05, (RUNS, 2 * pairs)), 0.05, 0.9).reshape(RUNS, pairs, 2)
    first = rng.integers(0, 2, (RUNS, pairs))[..., None]
    chances = np.stack([np.take_along_axis(blocks, which, 2)[..., 0] for which in (first, 1 - first)])
    chances[0] += effect
    means = rng.binomial(40, chances) / 40
    missed = decided_wrong = 0
    for run in (means[0] - means[1] + 1.0) / 2.0:
        interval, ever = MeanInterval(ERROR), False
        for value in run:
            interval.add(float(value))
            found = interval.interval()
            ever = ever or not found.low <= (effect + 1.0) / 2.0 <= found.high
        missed += ever
        decided_wrong += interval.interval().high < 0.5
    assert missed / RUNS <= miss_rate_max(ERROR, RUNS)
    assert decided_wrong == 0


def test_a_switchback_counts_pairs_without_their_first_minutes_and_decides() -> None:
    rng = np.random.default_rng(5)
    machine, roster = machine_of(Switchback(("a", "b"), outcome="served", min_pairs=20), wait_ms=2 * HOUR_MS)
    decisions: list[Decision] = []
    step_ms, number = HOUR_MS // 60, 0
    while not decisions and number < 400 * 60:
        time = number * step_ms
        name, told = asked(roster, number, "k", time)
        effect = 0.3 if name == "b" else 0.0
        if time % HOUR_MS < 6 * 60_000:
            effect = 0.9 - effect  # what the arm before has left behind says the opposite
        label = bool(rng.random() < 0.2 + 0.1 * np.sin(time / 12 / HOUR_MS) + effect)
        row = example_of(number, "k", time, label, told)
        late = replace(row, label_time=time + int(rng.integers(0, HOUR_MS)))
        decisions += step(machine, late)
        number += 1
    assert isinstance(machine, SwitchbackMachine)
    assert [one.type for one in decisions] == ["switchback.decided", "model.promoted"]
    assert decisions[0].model_name == roster.champion == "b"
    assert float(decisions[0].evidence["high"]) < 0.0
    assert decisions[0].evidence["examples_late"] == 0
    pairs = int(decisions[0].evidence["pairs"])
    assert decisions[0].evidence["examples"] == pairs * 2 * 54


# -- canary -------------------------------------------------------------------------------------------


def canary_run(
    rng: np.random.Generator, worse: np.ndarray[Any, Any], guards: tuple[Guard, ...] = ()
) -> list[tuple[int, Decision]]:
    """A canary whose challenger's mean loss is `worse` than the champion's, row by row."""
    policy = Canary(steps=(0.1, 0.5, 1.0), hold=2_000, guards=guards, error=ERROR)
    machine, roster = machine_of(policy)
    assert isinstance(machine, CanaryMachine)
    machine.begin(Moment(0, 0, 0), "b", {})
    seen: list[tuple[int, Decision]] = []
    theirs, ours = rng.random(len(worse)) < 0.3, rng.random(len(worse)) < 0.3 + worse
    for number, (a, b) in enumerate(zip(theirs, ours, strict=True)):
        _, told = asked(roster, number, f"u{number % 997}", number)
        row = example_of(number, f"u{number % 997}", number, True, told, features={"new": number % 4 == 0})
        seen += [(number, one) for one in step(machine, row, {"a": float(a), "b": float(b)})]
        if roster.routing is None:
            break
    return seen


def test_a_canary_that_turns_is_taken_back() -> None:
    rng = np.random.default_rng(2)
    turned, delays = 600, []
    for _ in range(20):
        worse = np.where(np.arange(4_000) < turned, -0.05, 0.3)
        seen = canary_run(rng, worse)
        number, decision = seen[-1]
        assert decision.type == "canary.aborted"
        assert decision.reason == "evidence turned"
        assert float(decision.evidence["low"]) > 0.0
        delays.append(number - turned)
    assert 0 < np.median(delays) < 900


def test_a_canary_that_stays_better_becomes_champion_step_by_step() -> None:
    rng = np.random.default_rng(3)
    aborted = 0
    for _ in range(20):
        seen = canary_run(rng, np.full(4_500, -0.1))
        types = [decision.type for _, decision in seen]
        if types[-1] == "canary.aborted":
            aborted += 1
            continue
        assert types == ["canary.stepped", "canary.done", "model.promoted"]
        assert [number for number, _ in seen] == [1_999, 3_999, 3_999]
    assert aborted <= 3


def test_a_guard_breaks_where_only_its_slice_is_worse() -> None:
    rng = np.random.default_rng(4)
    worse = np.where(np.arange(4_000) % 4 == 0, 0.4, -0.2)
    seen = canary_run(rng, worse, (Guard(0.05, slice=("new", True)),))
    assert seen[-1][1].type == "canary.aborted"
    assert seen[-1][1].reason == "guard: loss where new is True"
    assert seen[-1][0] < 2_000
    assert [one.type for _, one in canary_run(rng, worse)][-1] == "model.promoted"


@pytest.mark.parametrize(
    ("act", "reason"), [("quarantine", "challenger left"), ("crown", "another champion")]
)
def test_a_canary_ends_with_its_challenger_or_its_champion(act: str, reason: str) -> None:
    machine, roster = machine_of(Canary(), "abc")
    assert machine.paired
    assert [one.type for one in machine.begin(Moment(1, 0, 0), "b", {})] == ["canary.started"]
    assert not machine.paired
    assert machine.begin(Moment(2, 0, 0), "c", {}) == []
    arena, at = machine._arena, Moment(3, 0, 0)
    done = (
        arena.quarantine(at, "b", "ValueError", lambda _: 0.0)
        if act == "quarantine"
        else [arena.crown("c", at, "holiday", {})]
    )
    assert [(one.type, one.reason) for one in machine.decided(at, done)] == [("canary.aborted", reason)]
    assert roster.routing is None


# -- bandit -------------------------------------------------------------------------------------------

CHANCES = {"a": 0.30, "b": 0.35, "c": 0.50}
BANDITS = [bandit.ThompsonSampling(proba.Beta()), bandit.EpsilonGreedy(0.1), bandit.UCB(0.3)]


@pytest.mark.parametrize("policy", BANDITS, ids=lambda one: type(one).__name__)
def test_a_bandit_loses_less_than_a_fixed_split(policy: Any) -> None:
    rng = np.random.default_rng(6)
    events, runs = 4_000, 5
    fixed = events * (0.5 - sum(CHANCES.values()) / 3)
    regrets = []
    for _ in range(runs):
        machine, roster = machine_of(Bandit(policy, outcome="served", every=50, explore=0.03), "abc")
        regret = 0.0
        for number in range(events):
            name, told = asked(roster, number, "k", number)
            regret += 0.5 - CHANCES[name]
            label = bool(rng.random() < CHANCES[name])
            step(machine, example_of(number, "k", number, label, told))
        regrets.append(regret)
        assert roster.routing is not None
        shares = dict(roster.routing.shares)
        assert min(shares.values()) >= 0.03 / 3 - 1e-12
    assert np.mean(regrets) < 0.5 * fixed


def test_a_bandit_of_a_shared_label_learns_of_all_arms_at_once() -> None:
    machine, roster = machine_of(Bandit(bandit.UCB(0.1), every=10, explore=0.02), "abc")
    losses: dict[str, float | None] = {"a": 0.5, "b": 0.4, "c": 0.1}
    for number in range(10):
        _, told = asked(roster, number, "k", number)
        step(machine, example_of(number, "k", number, True, told), losses)
    assert roster.routing is not None
    assert dict(roster.routing.shares)["c"] == pytest.approx(0.98 + 0.02 / 3)


# -- another policy -----------------------------------------------------------------------------------


def test_what_was_picked_by_a_policy_before_says_nothing_about_the_next() -> None:
    """Its answers come in for as long as labels are waited for, and its revisions went before."""
    first, roster = machine_of(Split({"a": 0.5, "b": 0.5}, outcome="served"))
    _, told = asked(roster, 0, "k", 0)
    setting = Setting("shop", first._arena, 0, first.revision)
    policy = Split({"a": 0.9, "b": 0.1}, outcome="served")
    second = routing_of(
        policy, setting, task="binary", threshold=0.5, objective="brier", dump=pickle.dumps, load=pickle.loads
    )
    assert isinstance(second, SplitMachine)
    assert roster.routing is not None
    assert roster.routing.revision == told["policy_revision"] + 1
    second.observe(example_of(0, "k", 0, True, told), {})
    _, told = asked(roster, 1, "k", 1)
    second.observe(example_of(1, "k", 1, True, told), {})
    assert sum(arm.count for arm in second._state.arms.values()) == 1


def test_a_bandit_that_was_restored_pulls_like_one_that_was_not() -> None:
    """Also after an arm's model was replaced: its rewards count for nothing, in neither of the two."""
    policy = Bandit(bandit.UCB(1.0), every=1, explore=0.02)
    live, roster = machine_of(policy)
    losses: dict[str, float | None] = {"a": 0.1, "b": 0.5}

    def feed(machine: Any, first: int, last: int) -> None:
        for number in range(first, last):
            step(
                machine,
                example_of(number, "k", number, True, {"served_by": "arm", "model_name": "a"}),
                losses,
            )

    feed(live, 0, 40)
    entered = live._arena.write(Moment(40, 0, 40), "candidate.entered", "b", "pipeline file")
    live.decided(Moment(40, 0, 40), [entered])
    feed(live, 40, 45)
    restored, other = machine_of(policy)
    restored.restore(live.snapshot())
    shares = []
    for number in range(45, 80):
        for machine in (live, restored):
            feed(machine, number, number + 1)
        assert roster.routing is not None
        assert roster.routing == other.routing
        shares.append(roster.routing.shares)
    assert len(set(shares)) > 1
