"""Who is picked is the same however runs are cut, after a restore, and in a replay; examples say it."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import msgspec
import pytest
from river import bandit, linear_model, naive_bayes, proba

from engine import (
    Bandit,
    Blend,
    Canary,
    FailureGuard,
    Labels,
    LatencyGuard,
    Pipeline,
    Promotion,
    Serve,
    Shadow,
    Split,
    Switchback,
    Topic,
)
from engine.machines.deadline_scorer import DeadlineScorer
from engine.machines.learner import Learner
from engine.machines.scorer import Scorer
from engine.offline.off_policy import counted_examples
from engine.worker.assembly import build_learner
from operators import field
from operators.claims.rule import Suppression, Writer
from operators.models.signing import SigningKeys
from operators.race.routing import Policy
from operators.serving.policy_replay import played
from topics import headers
from topics.codec import decode_example, decode_prediction, encode
from topics.errors import DefinitionError
from topics.messages import Claim, Decision, Outgoing, Record, Slow

NOW_MS = 10_000_000
EVENTS = 400
KEYS = SigningKeys({"": b"k" * 32})
POLICIES: dict[str, Policy] = {
    "canary": Canary(steps=(0.2, 0.5, 1.0), hold=60),
    "split": Split({"lr": 0.5, "nb": 0.5}, min_examples=60),
    "switchback": Switchback(("lr", "nb"), block=20_000, washout=2_000, min_pairs=3),
    "bandit": Bandit(bandit.ThompsonSampling(proba.Beta()), every=20, explore=0.1),
}


class Visit(msgspec.Struct):
    event_id: str
    event_time: int
    user: str
    amount: float
    bought: bool | None = None


def pipeline(serving: Policy, labels: Labels | None = None) -> Pipeline:
    return Pipeline(
        name="shop",
        events=Topic("shop.visits", Visit, key="user"),
        labels=labels or Labels("shop.labels", wait="1m"),
        features={"amount": field("amount")},
        models={"lr": linear_model.LogisticRegression(), "nb": naive_bayes.GaussianNB()},
        champion="lr",
        promotion=Promotion(false_swap_every=30, evidence_block=4, min_examples=40, cooldown=20),
        serving=serving,
    )


def world() -> tuple[list[Record], list[Record]]:
    """Visits, one each second, and what came of them five seconds later; `nb` sees it sooner than `lr`."""
    rng = random.Random(4)
    events, labels = [], []
    for n in range(EVENTS):
        amount = rng.uniform(-2.0, 2.0)
        user, time = f"u{rng.randrange(40)}", 1_000 * n
        value = {"event_id": f"e{n}", "event_time": time, "user": user, "amount": amount}
        bought = abs(amount) < 1.0
        events.append(
            Record("shop.visits", 0, n, time, user.encode(), json.dumps(value | {"bought": bought}).encode())
        )
        told = {"event_id": f"e{n}", "label": bought, "label_time": time + 5_000}
        labels.append(Record("shop.labels", 0, n, time + 5_000, user.encode(), json.dumps(told).encode()))
    return events, labels


class Shop:
    """A scorer and the learner beside it, which reads back what is written."""

    def __init__(self, made: Pipeline, claim: int = 1, suppression: Suppression | None = None) -> None:
        self.pipeline = made
        self.learner: Learner = build_learner(made, keys=KEYS)
        self.scorer = self.scorer_of(claim, suppression)
        self.out: list[Outgoing] = []
        self.decisions: list[Decision] = []
        self.log: list[Record] = []
        self.fold([Outgoing("examples", 0, None, encode(Claim(0, claim)), headers.CLAIM, 0)])

    def scorer_of(self, claim: int, suppression: Suppression | None = None) -> Scorer:
        deadline = self.pipeline.deadline
        return (Scorer if deadline is None else partial(DeadlineScorer, deadline))(
            self.pipeline,
            partition=0,
            roster=self.learner.roster,
            writer=Writer(0, claim),
            suppression=suppression or Suppression(),
        )

    def fold(self, sent: list[Outgoing]) -> None:
        records = [
            one.written("examples", 0, len(self.log) + n)
            for n, one in enumerate(one for one in sent if one.target == "examples")
        ]
        self.log += records
        self.decisions += self.learner.fold(records)

    def run(self, size: int, *, restore_at: int | None = None, odd: bool = False) -> None:
        """Offer all records in slices of `size` seconds; at `restore_at` go on from a checkpoint."""
        events, labels = odd_world() if odd else world()
        for start in range(0, EVENTS + 10, size):
            if restore_at is not None and start <= restore_at < start + size:
                state, learned = self.scorer.snapshot(), self.learner.snapshot()
                numbered = self.scorer.outbox.writer.numbered
                self.learner = build_learner(self.pipeline, keys=KEYS)
                self.learner.restore(learned)
                self.scorer = self.scorer_of(1)
                self.scorer.restore(state)
                self.scorer.outbox.writer.numbered.update(numbered)
            self.scorer.intake.offer_events(events[start : start + size])
            self.scorer.intake.offer_labels(labels[max(start - 5, 0) : max(start + size - 5, 0)])
            while run := self.scorer.intake.next_run(events_unread=False, labels_unread=False):
                sent = [*chain.from_iterable(self.scorer.step(run, NOW_MS))]
                self.out += sent
                self.fold(sent)

    def targets(self, target: str) -> list[bytes]:
        return [one.value or b"" for one in self.out if one.target == target]


@pytest.mark.parametrize("name", POLICIES)
def test_every_answer_says_who_was_picked_and_the_log_holds_the_same(name: str) -> None:
    shop = Shop(pipeline(POLICIES[name]))
    shop.run(5)
    predictions = {p.event_id: p for p in map(decode_prediction, shop.targets("predictions"))}
    examples = [*map(decode_example, shop.targets("examples"))]
    assert len(predictions) == EVENTS
    assert len(examples) >= EVENTS - 5
    for example in examples:
        answer = predictions[example.event_id]
        assert (example.policy, example.policy_revision, example.propensity) == (
            answer.policy,
            answer.policy_revision,
            answer.propensity,
        )
        assert (example.model_version, example.model_updates) == (answer.model_version, answer.model_updates)
        assert example.scores[answer.model_name] == answer.prediction_score
    picked = [p for p in predictions.values() if p.policy]
    assert {p.policy for p in picked} == {name}
    assert {p.model_name for p in picked} == {"lr", "nb"}
    assert {p.served_by for p in picked} <= {"champion", "arm"}
    if name == "canary":
        types = [one.type for one in shop.decisions]
        assert {"canary.started", "canary.stepped", "canary.done", "model.promoted"} <= {*types}
    if name == "bandit":
        assert max(p.policy_revision for p in picked) > 10
    assert sum(shop.scorer.counts["arms", model] for model in ("lr", "nb")) == len(picked)


@pytest.mark.parametrize("name", POLICIES)
def test_a_restore_in_the_middle_changes_nothing(name: str) -> None:
    whole, cut = Shop(pipeline(POLICIES[name])), Shop(pipeline(POLICIES[name]))
    whole.run(5)
    cut.run(5, restore_at=random.Random(name).randrange(20, EVENTS))
    assert cut.out == whole.out
    assert cut.decisions == whole.decisions
    assert cut.learner.snapshot().keys() == whole.learner.snapshot().keys()


@pytest.mark.parametrize("name", POLICIES)
def test_the_log_alone_gives_the_same_decisions_however_it_is_cut(name: str) -> None:
    shop = Shop(pipeline(POLICIES[name]))
    shop.run(7)
    for size in (1, 13, len(shop.log)):
        learner = build_learner(shop.pipeline, keys=KEYS)
        found: list[Decision] = []
        for start in range(0, len(shop.log), size):
            found += learner.fold(shop.log[start : start + size])
        assert found == shop.decisions
        assert learner.roster.routing == shop.learner.roster.routing
        assert learner.digests() == shop.learner.digests()


@pytest.mark.parametrize("name", POLICIES)
def test_a_replay_reuses_the_logged_answers_whatever_the_table_says_now(name: str) -> None:
    """A new owner without a checkpoint answers nothing again, though its table has gone on."""
    shop = Shop(pipeline(POLICIES[name]))
    shop.run(5)
    answered = [*map(decode_prediction, shop.targets("predictions"))]
    suppression = Suppression()
    for answer in answered:
        suppression.add(answer)
    for example in map(decode_example, shop.targets("examples")):
        suppression.add(example)
    scorer = shop.scorer_of(2, suppression)
    events, labels = world()
    again: list[Outgoing] = []
    for start in range(0, EVENTS, 5):
        scorer.intake.offer_events(events[start : start + 5])
        scorer.intake.offer_labels(labels[max(start - 5, 0) : start])
        while run := scorer.intake.next_run(events_unread=False, labels_unread=False):
            again += chain.from_iterable(scorer.step(run, NOW_MS))
    assert not [one for one in again if one.target in {"predictions", "examples"}]


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("size", [1, 64])
def test_labels_inside_events_are_answered_by_the_same_picks_in_any_run(name: str, size: int) -> None:
    made = pipeline(POLICIES[name], Labels(field="bought"))

    def answers(size: int) -> list[Any]:
        shop = Shop(made)
        shop.scorer.learn_with(shop.learner, lambda decided, _: shop.decisions.extend(decided))
        events, _ = world()
        for start in range(0, EVENTS, size):
            shop.scorer.intake.offer_events(events[start : start + size])
            while run := shop.scorer.intake.next_run(events_unread=False, labels_unread=False):
                shop.out += chain.from_iterable(shop.scorer.step(run, NOW_MS))
        logged = [
            one.written("examples", 0, n + 1)
            for n, one in enumerate(one for one in shop.out if one.target == "examples")
        ]
        fresh = build_learner(made, keys=KEYS)
        claim = Outgoing("examples", 0, None, encode(Claim(0, 1)), headers.CLAIM, 0).written("examples", 0, 0)
        assert fresh.fold([claim, *logged]) == shop.decisions
        return [shop.targets("predictions"), shop.targets("examples"), shop.decisions]

    assert answers(size) == answers(17)
    predictions = [*map(decode_prediction, answers(size)[0])]
    assert {p.model_name for p in predictions if p.policy} == {"lr", "nb"}


def test_a_canary_played_over_its_own_log_decides_what_it_had_decided() -> None:
    """Without models, from the scores of the log alone."""
    shop = Shop(pipeline(POLICIES["canary"]))
    shop.run(5)
    examples = counted_examples(shop.log)
    way = played("shop", "binary", shop.pipeline.field, examples, wait_ms=60_000, served=False)
    told = [
        [(one.type, one.model_name, one.examples) for one in of] for of in (way.decisions, shop.decisions)
    ]
    assert told[0] == told[1]
    assert ("canary.done", "nb") in {one[:2] for one in told[0]}
    assert way.chances[-1] == {"nb": 1.0}


# -- a deadline ---------------------------------------------------------------------------------------


class Broken(linear_model.LogisticRegression):
    """Fails at visits as they come, not at those that a probe makes up."""

    def predict_proba_one(self, x: Any) -> Any:
        if x["amount"] in {json.loads(one.value or b"")["amount"] for one in world()[0][:2]}:
            raise RuntimeError("a visit")
        return super().predict_proba_one(x)


@pytest.mark.parametrize("serving", [Shadow(), POLICIES["split"]])
def test_an_event_past_the_deadline_is_answered_by_the_backup(serving: Policy) -> None:
    shop = Shop(replace(pipeline(serving), deadline=Serve("1s", backup="nb"), task="binary"))
    events, labels = world()
    ages = [0, 1_000, 1_001, 50_000, 5]
    asked = [
        msgspec.structs.replace(one, timestamp_ms=NOW_MS - age)
        for one, age in zip(events, ages, strict=False)
    ]
    shop.scorer.intake.offer_events([*asked, msgspec.structs.replace(events[5], timestamp_ms=None)])
    shop.scorer.intake.offer_labels(labels[:6])
    while run := shop.scorer.intake.next_run(events_unread=False, labels_unread=False):
        shop.out += chain.from_iterable(shop.scorer.step(run, NOW_MS))
    answers = [*map(decode_prediction, shop.targets("predictions"))]
    assert [one.served_by == "backup" for one in answers] == [False, False, True, True, False, False]
    late = [one for one in answers if one.served_by == "backup"]
    assert {(one.model_name, one.policy, one.propensity) for one in late} == {("nb", "", None)}
    assert shop.scorer.counts["predictions", "backup"] == 2
    learned = [*map(decode_example, shop.targets("examples"))]
    assert [one.served_by for one in learned] == [one.served_by for one in answers]
    assert all(one.scores.keys() == {"lr", "nb"} for one in learned)


def test_after_the_backup_comes_the_prior() -> None:
    made = replace(pipeline(Shadow()), deadline=Serve("1s", backup="nb"), task="binary")
    shop = Shop(replace(made, models={"lr": made.models["lr"], "nb": Broken()}))
    events, _ = world()
    shop.scorer.intake.offer_events([msgspec.structs.replace(one, timestamp_ms=0) for one in events[:2]])
    while run := shop.scorer.intake.next_run(events_unread=False, labels_unread=False):
        shop.out += chain.from_iterable(shop.scorer.step(run, NOW_MS))
    assert [one.served_by for one in map(decode_prediction, shop.targets("predictions"))] == ["prior"] * 2
    assert shop.targets("examples")


@pytest.mark.parametrize("tier", ["backup", "prior"])
def test_what_the_backup_answered_or_the_prior_after_it_is_no_evidence(tier: str) -> None:
    shop = Shop(pipeline(POLICIES["canary"]))
    shop.run(5)
    assert {"canary.started"} <= {one.type for one in shop.decisions}
    learner = build_learner(shop.pipeline, keys=KEYS)
    late = [
        msgspec.structs.replace(
            one, value=encode(msgspec.structs.replace(decode_example(one.value or b""), served_by=tier))
        )
        if number
        else one
        for number, one in enumerate(shop.log)
    ]
    assert not learner.fold(late)
    assert learner.digests() == shop.learner.digests()


@pytest.mark.parametrize(
    ("labels", "backup", "told"),
    [
        (None, "tree", "`tree`, which is no model"),
        (Labels(field="bought"), "nb", "labels come inside events"),
    ],
)
def test_a_deadline_that_cannot_be_kept_is_refused(labels: Labels | None, backup: str, told: str) -> None:
    with pytest.raises(DefinitionError, match=told):
        replace(pipeline(Shadow(), labels), deadline=Serve("1s", backup=backup), task="binary")


# -- a blend as an arm --------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [False, True])
def test_a_blend_may_be_an_arm(inside: bool) -> None:
    made = replace(
        pipeline(Shadow(), Labels(field="bought") if inside else None),
        models={"lr": linear_model.LogisticRegression(), "nb": naive_bayes.GaussianNB(), "blend": Blend()},
        serving=Split({"nb": 0.5, "blend": 0.5}),
        task="binary",
    )
    shop = Shop(made)
    if inside:
        shop.scorer.learn_with(shop.learner, lambda decided, _: shop.decisions.extend(decided))
        shop.scorer.intake.offer_events(world()[0])
        while run := shop.scorer.intake.next_run(events_unread=False, labels_unread=False):
            shop.out += chain.from_iterable(shop.scorer.step(run, NOW_MS))
    else:
        shop.run(5)
    answers = [*map(decode_prediction, shop.targets("predictions"))]
    blended = [one for one in answers if one.model_name == "blend"]
    assert {one.served_by for one in blended} <= {"arm", "champion"}, "once proven, it is the champion too"
    assert {one.propensity for one in blended} == {0.5}
    assert all(one.weights is not None and set(one.weights) <= {"lr", "nb"} for one in blended[5:])
    assert 0.2 * EVENTS < len(blended) < 0.8 * EVENTS
    learned = {one.event_id: one for one in map(decode_example, shop.targets("examples"))}
    assert all(learned[one.event_id].scores["blend"] == one.prediction_score for one in blended[:-9])


# -- guards of a canary ---------------------------------------------------------------------------------

ODD = 2.71828
"""An amount at which one model fails; visits of every 16th second have it, from the 150th on."""


class Odd(naive_bayes.GaussianNB):
    def predict_proba_one(self, x: Any) -> Any:
        if x["amount"] == ODD:
            raise RuntimeError("an odd amount")
        return super().predict_proba_one(x)


def odd_world() -> tuple[list[Record], list[Record]]:
    events, labels = world()
    for n in range(150, EVENTS, 16):
        value = json.loads(events[n].value or b"") | {"amount": ODD}
        events[n] = msgspec.structs.replace(events[n], value=json.dumps(value).encode())
    return events, labels


def odd_shop(*guards: FailureGuard, restore_at: int | None = None) -> Shop:
    made = pipeline(Canary(steps=(0.5, 1.0), hold=200, guards=guards))
    shop = Shop(replace(made, models={"lr": made.models["lr"], "nb": Odd()}, task="binary"))
    shop.run(5, restore_at=restore_at, odd=True)
    return shop


def test_failures_of_a_challenger_on_its_way_up_cost_it_the_event_and_no_more() -> None:
    shop = odd_shop(FailureGuard(0.1, window=200))
    assert "canary.started" in {one.type for one in shop.decisions}
    first = next(one for one in shop.decisions if one.type == "canary.started")
    assert first.examples < 145, "before the first odd amount"
    odd = [p for p in map(decode_prediction, shop.targets("predictions")) if p.features["amount"] == ODD]
    assert {(p.model_name, p.served_by) for p in odd if p.policy == "canary"} == {("lr", "champion")}
    failed = [p for p in odd if p.policy and p.propensity is None]
    assert failed, "some were picked"
    done = next(one for one in shop.decisions if one.type == "canary.done")
    before = [one for one in shop.log if one.offset < done.offset]
    assert not [one for one in before if headers.record_type_of(one.headers) == "quarantine"]
    assert shop.scorer.counts["model_failures", "score nb"] > 3
    after = [one.type for one in shop.decisions if one.offset > done.offset]
    assert after[:2] == ["model.quarantined", "model.promoted"], "a champion's first failure is its last"


def test_more_failures_than_a_guard_allows_take_the_canary_back() -> None:
    guard = FailureGuard(0.02, window=100)
    shop = odd_shop(guard)
    aborted = next(one for one in shop.decisions if one.type == "canary.aborted")
    assert (aborted.reason, aborted.model_name) == ("guard: failures", "nb")
    assert (aborted.evidence["failed"], aborted.evidence["allowed"]) == (3, 2.0)
    cut = odd_shop(guard, restore_at=180)
    assert (cut.decisions, cut.out) == (shop.decisions, shop.out)
    learner = build_learner(shop.pipeline, keys=KEYS)
    assert learner.fold(shop.log) == shop.decisions


def test_without_a_guard_the_first_failure_ends_the_canary() -> None:
    shop = odd_shop()
    types = [one.type for one in shop.decisions]
    assert types[types.index("canary.started") + 1 :][:2] == ["model.quarantined", "canary.aborted"]


def test_a_time_that_breaks_a_guard_is_a_record_and_takes_the_canary_back() -> None:
    learner = shop_with("lr", "nb", serving=Canary(guards=[LatencyGuard(2.0, name="slow")]))
    assert learner.arena.canary is not None
    learner.arena.canary(learner.learning.moment(0), "nb", {})
    report = msgspec.structs.replace(Slow("nb", 2, 0, 5.0, 2.0, 1_000), guard="slow")
    decisions = learner.fold([Record("examples", 0, 0, 0, b"nb", encode(report), headers.SLOW)])
    assert [(one.type, one.reason) for one in decisions] == [("canary.aborted", "guard: slow")]
    assert "nb" in learner.roster.racers, "it may prove itself again"


# -- a budget -----------------------------------------------------------------------------------------


def slow(name: str, offset: int, version: int) -> Record:
    report = Slow(name, version, 0, 5.0, 2.0, 300)
    return Record("examples", 0, offset, 0, name.encode(), encode(report), headers.SLOW)


def shop_with(*names: str, serving: Policy | None = None) -> Learner:
    models = {name: linear_model.LogisticRegression() for name in names}
    return build_learner(replace(pipeline(serving or Shadow()), models=models, champion=names[0]), keys=KEYS)


def test_a_candidate_over_its_budget_is_retired_once() -> None:
    learner = shop_with("lr", "nb")
    decisions = learner.fold([slow("nb", 0, 7), slow("nb", 1, 2), slow("nb", 2, 2)])
    assert [(one.type, one.model_name, one.offset) for one in decisions] == [
        ("model.over_budget", "nb", 1),
        ("challenger.retired", "nb", 1),
    ]
    assert decisions[0].reason == "takes 5 ms an event, 2 allowed"
    assert decisions[0].evidence["median_ms"] == 5.0
    assert "nb" not in learner.roster.racers


def test_a_champion_over_its_budget_gives_way_if_somebody_can_serve() -> None:
    learner = shop_with("lr", "nb")
    decisions = learner.fold([slow("lr", 0, 1)])
    assert [one.type for one in decisions] == ["model.over_budget", "model.quarantined", "model.promoted"]
    assert learner.roster.champion == "nb"
    alone = shop_with("lr")
    decisions = alone.fold([slow("lr", 0, 1)])
    assert [one.type for one in decisions] == ["model.over_budget"]
    assert decisions[0].reason.endswith("; nobody else could serve")
    assert alone.roster.healthy("lr")


def test_a_canary_that_is_too_slow_is_taken_back() -> None:
    learner = shop_with("lr", "nb", serving=Canary())
    assert learner.arena.canary is not None
    learner.arena.canary(learner.learning.moment(0), "nb", {})
    assert learner.roster.routing is not None
    decisions = learner.fold([slow("nb", 0, 2)])
    assert [one.type for one in decisions] == ["model.over_budget", "challenger.retired", "canary.aborted"]
    assert learner.roster.routing is None
