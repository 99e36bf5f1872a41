"""Swaps that a person must accept, against users with known truth: what is served meanwhile, at which cost.

The race is the one of the learner without its models: evidence, proposals, canary, and a person who is late,
says no, or never answers.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from operators.drift.detectors import Detectors
from operators.models.scoring import Racer, Roster
from operators.race.approval import LOOK_EVERY, Approvals
from operators.race.arena import Arena
from operators.race.commands import Commands
from operators.race.evaluation import Evaluation
from operators.race.evidence import Evidence, Promotion
from operators.race.good_versions import GoodVersions
from operators.race.learning import Learning
from operators.race.losses import brier
from operators.race.routing import Canary
from operators.serving.policy_machine import Setting
from operators.serving.routes import routing_of
from topics.messages import Command, Decision, Example

EVENTS = 2_400
CHANCE = 0.3
"""Of a click."""
Person = Callable[[Decision, int], tuple[str, int] | None]
"""(proposal, how many before) -> the word and after how many examples it comes; None: never."""


class Shop:
    """Users come one by one; `a` serves, `b` is as good as `skill` says, example by example."""

    def __init__(self, person: Person, *, canary: Canary | None = None, **promotion: Any) -> None:
        self.promotion = Promotion(
            approve="manual",
            false_swap_every=20_000,
            evidence_block=32,
            min_examples=200,
            cooldown=200,
            **promotion,
        )
        self.roster = Roster(
            "binary", [Racer(n, None, version=v, learns=False) for v, n in enumerate("ab", 1)], "a"
        )
        arena = Arena("shop", 0, self.roster, self.promotion)
        evaluation = Evaluation("binary", [], pickle.dumps, pickle.loads)
        self.approvals = Approvals(self.promotion, arena, "binary", 0.5, evaluation.churn)
        arena.approval = self.approvals
        good = GoodVersions(pickle.dumps, pickle.loads, self.roster)
        self.commands = Commands(arena, good, self.approvals)
        self.learning = Learning(
            "binary",
            arena,
            evaluation,
            Detectors([], pickle.dumps, pickle.loads),
            Evidence(self.promotion, opening=True),
            brier,
            observers=[self.approvals],
        )
        self.learning.routing = routing_of(
            canary, Setting("shop", arena, 0), task="binary", threshold=0.5, objective="brier",
            dump=pickle.dumps, load=pickle.loads,
        )  # fmt: skip
        self.person = person
        self.decisions: list[tuple[int, Decision]] = []
        self.served: list[str] = []
        self.losses: list[tuple[float, float]] = []
        self.words: list[tuple[int, Command]] = []

    def run(self, rng: np.random.Generator, skill: np.ndarray[Any, Any]) -> Shop:
        """`skill` is by how much each score of `b` lies nearer to the label than that of `a`."""
        labels = rng.random(len(skill)) < CHANCE
        noise = rng.normal(0.0, 0.15, (len(skill), 2))
        for number, label in enumerate(labels):
            near = np.clip(0.5 + np.array([0.0, skill[number]]) + noise[number], 0.0, 1.0)
            scores = {n: float(one if label else 1.0 - one) for n, one in zip("ab", near, strict=True)}
            self._answer(number, bool(label), scores)
            self._say(number)
        return self

    def _answer(self, number: int, label: bool, scores: dict[str, Any]) -> None:
        key, table = f"u{number % 499}", self.roster.routing
        pick = None if table is None else table.pick(key, f"e{number}", number)
        name = self.roster.champion if pick is None else pick.name
        told = {} if pick is None else {"policy": pick.policy, "propensity": pick.propensity}
        self.served.append(name)
        self.losses.append((brier(label, scores["a"]) or 0.0, brier(label, scores["b"]) or 0.0))
        example = Example(
            f"e{number}", key, number, number, label, {}, scores, scores[name], "arm", name, 0, number,
            number, 1, number, policy_revision=0 if pick is None else pick.revision, **told,
        )  # fmt: skip
        self._decided(number, self.learning.step([example], 2 * number))

    def _say(self, number: int) -> None:
        due = [command for at, command in self.words if at == number]
        for command in due:
            self._decided(
                number, self.learning.act(2 * number + 1, lambda at, c=command: self.commands.act(at, c))
            )

    def _decided(self, number: int, decisions: list[Decision]) -> None:
        for decision in decisions:
            self.decisions.append((number, decision))
            if decision.type == "proposal.opened":
                answer = self.person(decision, len(self.of("proposal.opened")) - 1)
                if answer is not None:
                    word, after = answer
                    asked = Command(
                        f"c{number}",
                        word,
                        0,
                        proposal_id=decision.decision_id,
                        actor="kim",
                    )
                    self.words.append((number + after, asked))

    def of(self, kind: str) -> list[int]:
        """Return the numbers of the examples at which something was decided."""
        return [number for number, one in self.decisions if one.type == kind]


def accepts(after: int) -> Person:
    return lambda _, __: ("approve", after)


def never(_: Decision, __: int) -> None:
    return None


BETTER = np.full(EVENTS, 0.15)


@pytest.mark.parametrize("late", [1, 1_000])
def test_the_champion_serves_until_a_person_has_said_yes(late: int) -> None:
    """And no event longer: what waiting costs is the difference of the two, times how long one waited."""
    rng, costs = np.random.default_rng(3), []
    for _ in range(3):
        shop = Shop(accepts(late)).run(rng, BETTER)
        [opened], [promoted] = shop.of("proposal.opened"), shop.of("model.promoted")
        assert opened < 1_200
        assert promoted == opened + late
        assert shop.served == ["a"] * (promoted + 1) + ["b"] * (EVENTS - promoted - 1)
        ours, theirs = np.array(shop.losses)[opened + 1 : promoted + 1].mean(0)
        costs.append((ours - theirs) * late)
    difference = np.mean(np.diff(np.array(shop.losses)).ravel())
    assert np.mean(costs) == pytest.approx(-difference * late, rel=0.25, abs=0.5)


def test_nobody_is_asked_for_one_that_is_no_better() -> None:
    """In 6 shops; the promise is a proposal in 20,000 examples, and in 5 % of the openings."""
    rng = np.random.default_rng(4)
    shops = [Shop(accepts(1)).run(rng, np.zeros(EVENTS)) for _ in range(6)]
    assert sum(bool(shop.of("proposal.opened")) for shop in shops) <= 6 * (0.05 + EVENTS / 20_000)
    for shop in shops:
        if not shop.of("proposal.opened"):
            assert set(shop.served) == {"a"}


def test_after_a_no_it_must_prove_itself_anew_and_the_champion_serves_meanwhile() -> None:
    rng = np.random.default_rng(5)
    for _ in range(3):
        shop = Shop(lambda _, n: ("refuse", 100) if n == 0 else ("approve", 100)).run(rng, BETTER)
        first, second, *_ = shop.of("proposal.opened")
        [refused], [accepted] = shop.of("proposal.refused"), shop.of("proposal.accepted")
        assert refused == first + 100
        assert second >= refused + LOOK_EVERY, "on examples that came after the no"
        assert accepted == second + 100
        assert set(shop.served[: accepted + 1]) == {"a"}
        assert set(shop.served[accepted + 1 :]) == {"b"}


@pytest.mark.parametrize("expires", [300, "300ms"])
def test_a_proposal_that_nobody_answers_expires_and_is_made_again(expires: int | str) -> None:
    """Whoever looks next finds evidence that is no older than a proposal may be."""
    rng = np.random.default_rng(6)
    for _ in range(2):
        shop = Shop(never, proposal_expires=expires).run(rng, BETTER)
        opened, expired = shop.of("proposal.opened"), shop.of("proposal.expired")
        assert len(opened) >= 3
        assert set(shop.served) == {"a"}
        for made, gone in zip(opened, expired, strict=False):
            assert 300 <= gone - made <= 300 + LOOK_EVERY
        for gone, again in zip(expired, opened[1:], strict=False):
            assert again > gone


def test_a_yes_that_comes_after_the_end_is_refused_and_changes_nothing() -> None:
    rng = np.random.default_rng(7)
    shop = Shop(lambda _, n: ("approve", 800) if n == 0 else None, proposal_expires=300).run(rng, BETTER)
    [refused] = shop.of("command.refused")
    assert refused == shop.of("proposal.opened")[0] + 800
    assert not shop.of("model.promoted")
    assert set(shop.served) == {"a"}


def turning(at: int) -> np.ndarray[Any, Any]:
    """Better at first, then as much worse."""
    return np.where(np.arange(EVENTS) < at, 0.15, -0.15)


def test_a_yes_to_one_that_has_turned_is_made_good_by_evidence_and_sooner_by_a_canary() -> None:
    """A person may say yes to what was true once: at once it serves all, step by step a few."""
    rng = np.random.default_rng(8)
    lost: dict[str, list[float]] = {"at once": [], "canary": []}
    steps = Canary(steps=(0.05, 0.25, 1.0), hold=500)
    for name, canary in (("at once", None), ("canary", steps)):
        for _ in range(3):
            shop = Shop(accepts(1_000), canary=canary).run(rng, turning(600))
            accepted = shop.of("proposal.accepted")[0]
            lost[name].append(sum(
                losses["ab".index(one)] - losses[0]
                for one, losses in zip(shop.served[accepted:], shop.losses[accepted:], strict=True)
            ))  # fmt: skip
            if canary is None:
                assert shop.of("proposal.opened")[1:], "the way back is proposed too"
            else:
                assert shop.of("canary.started")[0] == accepted
                assert shop.of("canary.aborted"), "evidence turned before it had everything"
                assert "b" in shop.served[accepted:]
                assert shop.served[-1] == "a"
    assert np.mean(lost["canary"]) < 0.2 * np.mean(lost["at once"])
