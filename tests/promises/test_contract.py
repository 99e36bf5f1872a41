"""Every operator keeps the contract of `operators/state.py`; a new one without a case here fails."""

import copy
import importlib
import inspect
import pickle
import pkgutil
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Any

import msgspec
import pytest
from fields import Source
from river import bandit, drift, linear_model, naive_bayes, preprocessing, proba

import operators
from engine.machines.learner import Learner
from operators import (
    by,
    coalesce,
    cross,
    decay,
    field,
    indicator,
    label,
    last_n,
    session,
    tiled,
    tumbling,
)
from operators.claims.rule import Reader
from operators.drift.detectors import Drift
from operators.drift.sampler import BlockSampler
from operators.drift.watch import Watch
from operators.drift.watcher import Watcher
from operators.join.completeness import Completeness
from operators.join.join import Join, LabelOutcomes
from operators.join.pending import Pending, Waiting, WaitingAnswer
from operators.join.queries import Queries, QueryWindows
from operators.language.alerts import Alert, NoveltyPlan, decided, signal
from operators.language.plan import compile_features
from operators.models.scoring import Racer, Roster
from operators.monitor.acks import Acks
from operators.monitor.alerts import AlertBook
from operators.monitor.before_labels.answered import AnsweredScores
from operators.monitor.before_labels.estimate import Estimated
from operators.monitor.behaviour.importance import Importance
from operators.monitor.behaviour.model_tests import Directional, Invariant, ModelTests, Perturbed
from operators.monitor.calibration import Calibration
from operators.monitor.fairness import Fair, Fairness
from operators.monitor.feedback import Feedback
from operators.monitor.learner_alerts import LearnerAlerts
from operators.monitor.monitors import MonitorContext, Monitors
from operators.monitor.random_rows import RandomRows
from operators.monitor.reservoir import Reservoir
from operators.monitor.slices import Slices
from operators.monitor.worst import Worst
from operators.race.arena import Arena, Moment
from operators.race.candidates import Candidate, Challenge, Every, Release, Worse
from operators.race.evidence import Promotion
from operators.race.field import RaceField
from operators.race.opening import Opening
from operators.race.routing import Bandit, Canary, Guard, Policy, Split, Switchback
from operators.rekeying.merge import Merge
from operators.rekeying.pending_values import PendingValues
from operators.rules.novelty import Novelty
from operators.serving.canary import CanaryMachine
from operators.serving.policy_machine import PolicyMachine, Setting
from operators.serving.routes import routing_of
from operators.state import Composite
from operators.trust.sources import SourceRules, Sources, Trust
from operators.windows.features import Features, JoinedLabel
from topics import headers
from topics.codec import encode
from topics.messages import Block, Claim, Decision, Event, Example, Label, Prediction, Record
from topics.rekeying import Order

STEPS = 120


class Payment(msgspec.Struct):
    card: str
    amount: float | None


@dataclass(frozen=True)
class Case:
    """How one operator, and those it is made of, is built and fed."""

    make: Callable[[], Any]
    inputs: Callable[[random.Random], list[Any]]
    feed: Callable[[Any, Any], Any]
    covers: Callable[[Any], tuple[type, ...]] = lambda made: (type(made),)


def make_features() -> Features:
    definition = {
        "n": by("card").count("30s"),
        "mean": by("card").mean("amount", "1m"),
        "max": by().max("amount", "20s"),
        "var": by("card").var("amount", "1m"),
        "amount": field("amount"),
        "labels": by("card").mean(label, "1m"),
        "large": by("card").count("1m", where=field("amount") > 1),
        "shifted": by("card").mean("amount", "1m", shift="10s"),
        "cards": by().distinct("card", "20s"),
        "usual": by().mode("card", "20s", rank=2),
        "entropy": by().entropy("card", last_n(7, within="30s"), include_current=False),
        "median": by("card").median("amount", tumbling("30s")),
        "largest": by().arg_max("card", "amount", "20s"),
        "tiled": by("card").var("amount", tiled("30s", step="5s")),
        "tiled_distinct": by().distinct("amount", tiled("30s", step="5s")),
        "tiled_median": by().median("amount", tiled("40s", step="5s")),
        "minute": by("card").arg_min("amount", "amount", tumbling("1m")),
        "visit": by("card").sum("amount", session("4s")),
        "fading": by("card").mean("amount", decay("10s"), include_current=False),
        "fading_labels": by("card").count(label, decay("10s")),
        "tiled_labels": by("card").mean(label, tiled("30s", step="5s")),
        "usual_hashed": cross(field("card"), by().mode("card", "20s")).hashed(100),
        "above": indicator(field("amount") > by("card").mean("amount", "1m")),
        "first_mean": coalesce(field("amount").log1p(), by("card").mean("amount", "1m")).bucket([1, 10]),
        "root": operators.apply(sqrt, field("amount"), returns=float),
    }
    return Features(
        compile_features(definition, Payment, grace_ms=5_000, max_events_per_key=20, task="binary")
    )


def feature_inputs(rng: random.Random) -> list[Any]:
    items: list[Any] = []
    newest = 0
    for number in range(STEPS):
        time = max(0, newest + rng.randint(-8_000, 4_000))
        late = time < newest - 5_000
        newest = max(newest, time)
        amount = None if rng.random() < 0.1 else rng.lognormvariate(0, 5)
        value = Payment(rng.choice("abc"), amount)
        items.append(Event(str(number), time, value.card, value, number, newest - 5_000, late))
        if rng.random() < 0.4:
            items.append(JoinedLabel((rng.choice("abc"),) * 3, time, float(rng.random() < 0.5)))
    return items


def feed_features(made: Features, item: Any) -> Any:
    return made.step_labels([item]) if isinstance(item, JoinedLabel) else made.step_events([item])


def answer(event_id: str, time: int, offset: int) -> Prediction:
    return Prediction(
        f"p:{event_id}",
        event_id,
        time,
        0,
        "m",
        1,
        0,
        "champion",
        0.5,
        True,
        "champion",
        {"a": 1},
        offset,
        1,
        0,
    )


def join_inputs(rng: random.Random) -> list[Any]:
    items: list[Any] = []
    time = 0
    for number in range(STEPS):
        time += rng.randint(0, 300)
        kind = rng.random()
        if kind < 0.5:
            items.append(
                WaitingAnswer.of(answer(f"e{number}", time, number), "k", ("a",), number, {"m": 0.5})
            )
        elif kind < 0.9:
            items.append(Label(f"e{rng.randint(0, number + 3)}", rng.random() < 0.5, time, number))
        else:
            items.append(time)
    return items


def feed_join(made: Join, item: Any) -> Any:
    item = copy.deepcopy(item)  # an entry belongs to the join from then on
    match item:
        case Waiting() | WaitingAnswer():
            made.open(item)
            return made.meet_early(item)
        case Label():
            return made.label(item, key=b"k", value=b"v")
        case _:
            return made.expire(item - 2_000, at_offset=item)


def make_learner() -> Learner:
    models = {
        "nb": naive_bayes.GaussianNB(),
        "lr": preprocessing.StandardScaler() | linear_model.LogisticRegression(),
    }
    return Learner(
        pipeline="p",
        task="binary",
        source=Source(),
        field=RaceField.of(
            {**models, "nb": Candidate(models["nb"], release=Release(every=10))},
            champion="nb",
            drift=[Drift(drift.ADWIN(clock=4))],
            promotion=Promotion(
                false_swap_every=50, evidence_block=4, min_examples=10, cooldown=10, veto=[Guard(0.3)]
            ),
            challenges=[Challenge(Every(40), start="champion", of="lr"), Challenge(Worse(0.1, than=32))],
        ),
    )


def learner_inputs(rng: random.Random) -> list[Any]:
    records = [Record("x", 0, 0, 0, None, encode(Claim(0, 1)), headers.CLAIM)]
    for number in range(STEPS):
        x = {"a": rng.random(), "b": rng.random()}
        example = Example(
            f"e{number}", "k", number, number + 5, x["a"] > 0.5, x,
            {"nb": rng.random(), "lr": x["a"], "nb-twin": rng.random()}, 0.5,
            "champion", "nb", 0, number, number, 1, number,
        )  # fmt: skip
        records.append(Record("x", 0, number + 1, number, None, encode(example), headers.EXAMPLE))
    return records


def learner_parts(made: Learner) -> tuple[type, ...]:
    race = (made.arena, made.evaluation, made.detectors, made.evidence, made.learning)
    parts = (*race, made.good, made.commands, made.releases, made.challenges, made.approvals, made.reader)
    return tuple(type(part) for part in parts)


def merge_inputs(rng: random.Random) -> list[Any]:
    items: list[Any] = []
    for number in range(STEPS):
        source, time = rng.randrange(3), number + rng.randint(-5, 5)
        item = Payment("abc"[source], float(time))
        items.append((Order(time, 2, source, number), item) if rng.random() < 0.6 else (source, time))
    return items


def feed_merge(made: Merge[Payment], item: Any) -> Any:
    first, second = item
    if isinstance(first, Order):
        return made.offer(first, second)
    return made.progress(first, second, idle=second % 7 == 0)


def feed_gather(made: PendingValues, item: tuple[int, int]) -> Any:
    kind, offset = item
    if kind == 0:
        made.expect(offset)
    elif kind == 1:
        made.sent(offset, {"a": offset}, late=False)
    elif kind == 2:
        made.put(offset, {"b": 0.5}, late=offset % 5 == 0)
    elif made.complete(offset):
        return made.take(offset)
    return made.outstanding


def make_novelty() -> Novelty:
    return Novelty(NoveltyPlan(("card",), True, 20, 12, {}), Payment)


def novelty_inputs(rng: random.Random) -> list[Any]:
    items = []
    for number in range(STEPS):
        card = "abcdefghijklmnop"[min(15, number // 10 + rng.randrange(3))]
        body = {"card": card, "amount": 1.0, rng.choice(["x", "y", f"z{number // 30}"]): 0}
        payload = msgspec.json.encode(body)
        event = Event(str(number), number, card, Payment(card, 1.0), number, number)
        items.append(([event], [rng.choice((0, 1))], {number: payload}))
    return items


def completeness_inputs(rng: random.Random) -> list[Any]:
    return [
        (rng.choice(("opened", "labelled", "passed")), number * 40, rng.randrange(1_600))
        for number in range(STEPS)
    ]


def feed_completeness(made: Completeness, item: tuple[str, int, int]) -> Any:
    what, time, delay = item
    if what == "opened":
        made.opened(time)
    elif what == "labelled":
        made.labelled((time, time + delay))
    else:
        made.passed(time - 100)
    return made.report()


def feed_outcomes(made: LabelOutcomes, outcome: str) -> Any:
    made.count(outcome)
    made.expired(len(outcome) % 2)
    return made.read(), made.report()


def query_inputs(rng: random.Random) -> list[Any]:
    items: list[Any] = []
    for number in range(STEPS):
        time = number * 7 + rng.randrange(150)
        answer = Prediction(
            f"p:e{number}", f"e{number}", time, time, "m", 1, 0, "champion", rng.random(), True, "champion",
            {}, number, 1, number,
        )  # fmt: skip
        items.append((answer, rng.choice("abc"), number * 7, rng.randrange(60) == 0))
    return items


def feed_queries(made: QueryWindows, item: tuple[Prediction, str, int, bool]) -> Any:
    answer, key, watermark, erases = item
    if erases:
        made.erase(key)
    return made.offer(answer, key, {}), made.close(watermark), made.next_deadline


def feed_composite(made: Composite[Payment], item: tuple[int, int, int]) -> Any:
    made.position.amount = float(item[1])
    reader = made._parts["even" if item[0] % 2 == 0 else "odd"]
    assert isinstance(reader, Reader)
    return feed_reader(reader, item)


def reader_inputs(rng: random.Random) -> list[Any]:
    return [(rng.randint(0, 1), rng.randint(1, 3), rng.randint(-1, 3)) for _ in range(STEPS)]


def feed_reader(made: Reader, item: tuple[int, int, int]) -> Any:
    return made.claim(*item[:2]) if item[2] < 0 else made.counts(*item)


def sampler_inputs(rng: random.Random) -> list[Any]:
    items: list[Any] = []
    for number in range(4 * STEPS):
        row = {"a": rng.random(), "b": rng.choice("xyz")}
        del row[rng.choice("ab")]
        items.append((f"e{number // 2 * 2}", max(0, 3 * number + rng.randint(-90, 30)), row, rng.random()))
        if rng.random() < 0.3:
            items.append(rng.choice(["late", 3 * number - 60, ("erase", rng.choice("klmn"))]))
    return items


def feed_sampler(made: BlockSampler, item: Any) -> Any:
    match item:
        case ("erase", key):
            return made.erase(key)
        case (event_id, time, row, score):
            return made.take([event_id], ["klmn"[time % 4]], [time], [row], [score], ["champion"])
        case str():
            return made.refuse(item)
        case _:
            return made.close(item)


def feed_answered(made: AnsweredScores, item: Any) -> Any:
    match item:
        case (_, time, _, score):
            return made.take([(time, score, score > 0.5)])
        case int():
            return made.close(item), made.next_deadline, made.late
        case _:
            return made.take([(7, {"a": 0.25, "b": 0.75}, "b"), (9, None, None)])


def watcher_inputs(rng: random.Random) -> list[Any]:
    items: list[Any] = []
    for number in range(STEPS // 2):
        for partition in (0, 1)[: 1 + (number % 7 != 3)]:
            size = rng.randint(0, 30)
            columns: dict[str, Any] = {
                "a": [rng.gauss(number > STEPS // 3, 1.0) for _ in range(size)],
                "b": [rng.choice(["x", "y", None]) for _ in range(size)],
            }
            scores: list[Any] = [rng.random() for _ in range(size)]
            hashes = sorted(rng.sample(range(1000), size))
            items.append(
                Block(
                    number, 100 * number, 100 * number + 100, 2 * size, 0, {"value": number % 2},
                    {"champion": 2 * size}, hashes, columns, scores, source_partition=partition,
                )
            )  # fmt: skip
        x, time = {"a": rng.random(), "b": "x"}, 100 * number + rng.randint(0, 150)
        items += [
            Example(
                f"e{number}-{n}", "k", time - 50, time, rng.random() < 0.5, x, {}, rng.random(), "champion",
                "m", 0, number, number, 1, number,
            )
            for n in range(3)
        ]  # fmt: skip
    return items


def feed_watcher(made: Watcher, item: Any) -> Any:
    return made.fold_block(item) if isinstance(item, Block) else made.observe([item], [0.25])


SERVING: dict[str, Policy] = {
    "canary": Canary(steps=(0.2, 0.5, 1.0), hold=40, guards=[Guard(0.1, slice=("a", 1))]),
    "split": Split({"a": 0.5, "b": 0.3, "c": 0.2}, outcome="served", min_examples=20),
    "switchback": Switchback(("a", "b"), block=10, washout=2),
    "bandit": Bandit(bandit.ThompsonSampling(proba.Beta()), every=7, outcome="served"),
    "greedy": Bandit(bandit.EpsilonGreedy(0.2), every=7),
}


def make_policy(name: str) -> Any:
    roster = Roster("binary", [Racer(n, None, version=v) for v, n in enumerate("abc", 1)], "a")
    setting = Setting("p", Arena("p", 0, roster, Promotion()), 5)
    machine = routing_of(
        SERVING[name],
        setting,
        task="binary",
        threshold=0.5,
        objective=Promotion().loss,
        dump=pickle.dumps,
        load=pickle.loads,
    )
    if isinstance(machine, CanaryMachine):
        machine.begin(Moment(0, 0, 0), "b", {})
        machine.delta()
    return machine


def policy_inputs(rng: random.Random) -> list[Any]:
    return [
        (
            Example(
                f"e{n}", f"k{rng.randrange(30)}", n, n + rng.randrange(9), rng.random() < 0.5,
                {"a": rng.randrange(2)}, {}, 0.5, "arm", "", 0, n, n, 1, n,
            ),
            {name: rng.random() for name in "abc"},
        )
        for n in range(STEPS)
    ]  # fmt: skip


def feed_policy(made: Any, item: Any) -> Any:
    example, losses = item
    if (table := made.table) is not None:
        pick = table.pick(example.key, example.event_id, example.event_time)
        example = msgspec.structs.replace(
            example, model_name=pick.name, policy=pick.policy, policy_revision=pick.revision,
            propensity=pick.propensity,
        )  # fmt: skip
    at = Moment(example.event_offset, example.label_time, example.event_offset)
    decided = made.act(at) if made.observe(example, losses) else []
    return [(one.type, one.model_name, one.evidence) for one in decided], made.table


MONITORS = (
    ("slices", Slices((("a",), ("b", "key")), values_max=3)),
    ("reservoir", Reservoir(per_class_max=4, by=("b",))),
    ("tests", ModelTests((Invariant("b"), Directional("a"), Perturbed()))),
    ("importance", Importance(rows=5)),
    ("feedback", Feedback("b", block=50, items_max=3)),
    ("fairness", Fairness((Fair("b", rows_min=5),))),
    ("calibration", Calibration(halved=50)),
    ("estimate", Estimated("1s")),
    ("worst", Worst(rows_max=3)),
    ("random", RandomRows()),
)


def make_monitors() -> Monitors:
    return Monitors(MONITORS, MonitorContext("p", "binary", 0.5, "brier", Roster("binary", (), "a")))


def monitor_inputs(rng: random.Random) -> list[Any]:
    items: list[Any] = []
    for number in range(STEPS):
        batch = []
        for _ in range(rng.randrange(8)):
            x = {"a": rng.random(), "b": rng.choice("xyzw"), "key": rng.randrange(9)}
            scores: dict[str, Any] = {"a": rng.random(), "b": rng.random()}
            example = Example(
                f"e{number}", "k", number * 60, number * 60 + 500, rng.random() < 0.5, x, scores, scores["a"],
                "champion", "a", 0, number, number, 1, number,
            )  # fmt: skip
            batch.append((example, (rng.random(), {"a": rng.random(), "b": rng.random()})))
        items.append(batch)
    return items


def feed_monitors(made: Monitors, batch: Any) -> None:
    made.gathered += batch
    if len(batch) == 7:
        made.forget("b")
    made.stop(Moment(0, 0, 0))


def source_inputs(rng: random.Random) -> list[Example]:
    """Labels of a few sources, one of which is mostly wrong."""
    examples = []
    for number in range(STEPS):
        source, score = rng.choice("abcd"), rng.uniform(0.5, 1.0)
        label = (rng.random() < 0.8) != (source == "d")
        example = Example(
            f"e{number}", "k", number, number + 9, label, {}, {}, score, "champion", "a", 0, number, number,
            1, number, source=source,
        )  # fmt: skip
        examples.append(example)
    return examples


def make_sources() -> Sources:
    trust = Trust(false_quarantine_every=50, loss_margin=0.1, sources_max=3)
    return Sources(SourceRules(per_source_max=5, window=20, trust=trust), "binary", "brier", 0.5)


def alert_inputs(rng: random.Random) -> list[Any]:
    """Times and a lag that trembles around its bound, and ids of alerts that somebody judges."""
    return [(60_000 * n, rng.choice("ab"), rng.choice((0.0, 20.0))) for n in range(STEPS)]


def make_learner_alerts() -> LearnerAlerts:
    roster = Roster("binary", [Racer("a", None, version=1)], "a")
    alerts = [Alert(when=signal("quarantined") > 0), Alert(when=decided("model.promoted"))]
    return LearnerAlerts("p", alerts, roster, Counter())


def feed_learner_alerts(made: LearnerAlerts, item: Any) -> Any:
    time, name, lag = item
    example = Example(
        f"e{time}", "k", time, time, True, {}, {}, 0.5, "champion", "a", 0, 0, 0, 1, 0,
    )  # fmt: skip
    made.observe([example], [(lag, {})])
    if lag:
        made.decided([Decision(f"d{time}", "model.promoted", time, name, 1, 1, "why", "me", time)])
    return made.take(), made.readings()


def feed_acks(made: Acks, item: Any) -> Any:
    time, name, lag = item
    made.ack(f"p:{name}::{time % 600_000}", false_alarm=bool(lag))
    return made.precision()


CASES = {
    "sources": Case(make_sources, source_inputs, lambda made, item: made.admit(item)),
    **{
        name: Case(lambda name=name: make_policy(name), policy_inputs, feed_policy)  # type: ignore[misc]
        for name in SERVING
    },
    "composite": Case(
        lambda: Composite(Payment("a", 0.0), {"even": Reader(), "odd": Reader()}),
        reader_inputs,
        feed_composite,
    ),
    "alerts": Case(
        lambda: AlertBook("p", [Alert(when=signal("lag_records") > 10, for_="1m")]),
        alert_inputs,
        lambda made, item: made.read(item[0], {"lag_records": {item[1]: item[2]}}),
    ),
    "learner_alerts": Case(make_learner_alerts, alert_inputs, feed_learner_alerts),
    "acks": Case(lambda: Acks("p", "ab"), alert_inputs, feed_acks),
    "novelty": Case(make_novelty, novelty_inputs, lambda made, item: made.step(*item)),
    "merge": Case(lambda: Merge(3, Payment, held_max=30), merge_inputs, feed_merge),
    "pending": Case(
        lambda: PendingValues(parts=2),
        lambda rng: [(rng.randrange(4), rng.randrange(12)) for _ in range(STEPS)],
        feed_gather,
    ),
    "features": Case(make_features, feature_inputs, feed_features),
    "join": Case(
        lambda: Join(wait_ms=1_500, implicit=False, pending_max=30, early_max=10),
        join_inputs,
        feed_join,
        lambda _: (Join, Pending),
    ),
    "completeness": Case(
        lambda: Completeness(wait_ms=1_500, grace_ms=100), completeness_inputs, feed_completeness
    ),
    "outcomes": Case(
        lambda: LabelOutcomes(7), lambda rng: rng.choices(("joined", "late"), k=STEPS), feed_outcomes
    ),
    "queries": Case(lambda: QueryWindows(Queries(per=100, max=3), 3), query_inputs, feed_queries),
    "reader": Case(Reader, reader_inputs, feed_reader),
    "opening": Case(
        lambda: Opening("leader"),
        lambda rng: [{"a": rng.random(), "b": rng.random()} for _ in range(STEPS)],
        lambda made, item: made.add("a", item),
    ),
    "sampler": Case(
        lambda: BlockSampler(Watch(block=100, reference_span=2_000, rows_max=50), features=500),
        sampler_inputs,
        feed_sampler,
    ),
    "answered": Case(
        lambda: AnsweredScores(100),
        sampler_inputs,
        feed_answered,
    ),
    "watcher": Case(
        lambda: Watcher(Watch(block=100, reference_span=2_000, false_alarm_every=500), "p", "binary"),
        watcher_inputs,
        feed_watcher,
        lambda made: (Watcher, type(made._ledger), type(made._means)),
    ),
    "monitors": Case(
        make_monitors,
        monitor_inputs,
        feed_monitors,
        lambda made: (Monitors, *map(type, made.parts.values())),
    ),
    "learner": Case(make_learner, learner_inputs, lambda made, item: made.fold([item]), learner_parts),
}


def discovered() -> set[type]:
    found: set[type] = set()
    for module in pkgutil.walk_packages(operators.__path__, "operators."):
        loaded = importlib.import_module(module.name)
        for _, kind in inspect.getmembers(loaded, inspect.isclass):
            own = kind.__module__ == loaded.__name__ and not getattr(kind, "_is_protocol", False)
            if own and all(hasattr(kind, method) for method in ("snapshot", "delta", "restore")):
                found.add(kind)
    return found


def test_every_operator_has_a_case() -> None:
    covered = {kind for case in CASES.values() for kind in case.covers(case.make())}
    assert discovered() <= covered | {PolicyMachine}
    assert len(discovered()) >= 7


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(3))
class TestContract:
    def test_equal_inputs_give_equal_outputs(self, name: str, seed: int) -> None:
        case = CASES[name]
        one, two = case.make(), case.make()
        inputs = case.inputs(random.Random(seed))
        again = case.inputs(random.Random(seed))
        assert [case.feed(one, item) for item in inputs] == [case.feed(two, item) for item in again]
        assert one.snapshot().keys() == two.snapshot().keys()

    def test_inputs_are_left_as_they_were(self, name: str, seed: int) -> None:
        case = CASES[name]
        made = case.make()
        for item in case.inputs(random.Random(seed)):
            before = copy.deepcopy(item)
            case.feed(made, item)
            assert item == before

    def test_snapshot_restore_continue_equals_continue(self, name: str, seed: int) -> None:
        case = CASES[name]
        rng = random.Random(seed)
        inputs = case.inputs(rng)
        cut = rng.randint(0, len(inputs))
        made, restored = case.make(), case.make()
        for item in inputs[:cut]:
            case.feed(made, item)
        before = made.snapshot()
        assert made.snapshot() == before, "taking a snapshot changes nothing"
        restored.restore(before)
        rest = inputs[cut:]
        assert [case.feed(made, item) for item in rest] == [case.feed(restored, item) for item in rest]
        if hasattr(made, "digests"):
            assert made.digests() == restored.digests()
        else:
            assert made.snapshot() == restored.snapshot()

    def test_deltas_add_up_to_the_snapshot(self, name: str, seed: int) -> None:
        case = CASES[name]
        rng = random.Random(seed)
        made = case.make()
        state: dict[str, bytes] = {}
        for item in case.inputs(rng):
            case.feed(made, item)
            if rng.random() < 0.1:
                apply(state, made.delta())
        apply(state, made.delta())
        assert state.keys() == made.snapshot().keys()
        other = case.make()
        other.restore(state)
        if hasattr(made, "digests"):
            assert other.digests() == made.digests()
        else:
            assert state == made.snapshot() == other.snapshot()


def apply(state: dict[str, bytes], delta: dict[str, bytes | None]) -> None:
    for name, data in delta.items():
        if data is None:
            state.pop(name, None)
        else:
            state[name] = data
