"""Learning at once, in runs, equals the log folded record by record, whatever fails or is decided in between.

The oracle is the way that knows nothing of runs: each event is a run of its own, answered by the
generic path, its records are encoded, read back and folded, before the next event comes.
"""

import random
from collections import Counter
from itertools import chain
from typing import Any

import msgspec
import pytest
from river import drift, linear_model, metrics, naive_bayes, tree

from engine import Blend, Drift, Labels, Pipeline, Promotion, Topic, Watch
from engine.machines.learner import Learner
from engine.machines.scorer import Scorer
from engine.worker.assembly import build_learner
from operators import by, field, label
from operators.claims.rule import Suppression, Writer
from operators.models.signing import SigningKeys
from topics import headers
from topics.codec import encode
from topics.messages import Claim, Decision, Outgoing, Record

NOW_MS = 10**12 + 3_000_000
SIZE = 500
SEEDS = (1, 2)
BREAKING = {20: 1e6, 130: 2e6, 240: 3e6}
"""At which event a value comes that breaks the model made for it."""


class Reading(msgspec.Struct):
    event_id: str
    event_time: int
    sensor: str
    value: float
    wet: bool | None = None
    level: float | None = None


class BrittleScorer(linear_model.LogisticRegression):
    """Raises when it scores a certain value."""

    breaks_at = BREAKING[20]

    def predict_proba_one(self, x: dict[str, Any]) -> dict[bool, float]:
        if x["value"] == self.breaks_at:
            raise ArithmeticError("cannot score")
        return super().predict_proba_one(x)  # type: ignore[no-any-return]


class LaterBrittleScorer(BrittleScorer):
    """The same, when others have served before it."""

    breaks_at = BREAKING[240]


class BrittleLearner(naive_bayes.GaussianNB):
    """Raises when it learns a certain value."""

    def learn_one(self, x: dict[str, Any], y: bool) -> None:
        super().learn_one(x, y)
        if x["value"] == BREAKING[130]:
            raise ArithmeticError("cannot learn")


def definition(task: str, *, label_windows: bool, **opens: Any) -> Pipeline:
    """`opens` is what a race without a named champion says; the first model is named where it is left out."""
    features: dict[str, Any] = {"value": field("value"), "n": by("sensor").count("1m")}
    if label_windows:
        features["mean"] = by("sensor").mean(label, "1m").default(0.0)
    models: dict[str, Any] = {
        "brittle": BrittleScorer(),
        "nb": BrittleLearner(),
        "tree": tree.HoeffdingAdaptiveTreeClassifier(seed=1, grace_period=20),
        "lr": LaterBrittleScorer(),
    }
    if task == "regression":
        models = {
            "tree": tree.HoeffdingTreeRegressor(grace_period=20),
            "lr": linear_model.LinearRegression(),
        }
    watch = None
    if opens.pop("watched", False):
        watch = Watch(block="5s", reference_span="70s", false_alarm_every="5s", rows_max=50)
    if not opens:
        opens = {"champion": next(iter(models))}
    elif opens.pop("blends", False):
        # Two more beside the one that joins: of some, and by fixed weights; the first of them opens.
        some = list(models)[-2:]
        models |= {"some": Blend(of=some), "fixed": Blend(weights=dict(zip(some, (2, 1), strict=True)))}
    return Pipeline(
        name="rain",
        **opens,
        events=Topic("rain.readings", Reading, key="sensor", grace="2s", max_ahead="1h"),
        labels=Labels(field="wet" if task == "binary" else "level", wait="20s"),
        features=features,
        models=models,
        metrics=[metrics.MAE()] if task == "regression" else [metrics.LogLoss(), metrics.Accuracy()],
        drift=[
            Drift(drift.PageHinkley(min_instances=15, delta=0.001, threshold=1.0)),
            Drift(drift.ADWIN(), on="label"),
        ],
        promotion=Promotion(
            false_swap_every=20,
            evidence_block=7,
            min_examples=30,
            cooldown=40,
            fresh_challengers_max=1,
        ),
        shadow_predictions=True,
        watch=watch,
    )


def history(seed: int, *, broken: bool) -> list[Record]:
    """Return readings with turns of the world, values that break models, repeats, gaps and late ones."""
    rng = random.Random(seed)
    records, time = [], 10**12
    for n in range(SIZE):
        time += rng.randrange(400)
        value = rng.gauss(0, 1)
        wet = (value + rng.gauss(0, 0.7) > 0) ^ (n // 120 % 2 == 1)
        if broken:
            value = BREAKING.get(n, value)
        body = {
            "event_id": f"e{n - (rng.random() < 0.03)}",
            "event_time": time - rng.choice([0, 0, 0, 0, 1_500, 9_000, 40_000]),
            "sensor": rng.choice("ab"),
            "value": value,
            "wet": None if rng.random() < 0.05 else wet,
            "level": value * (3 if wet else 1),
        }
        records.append(Record("rain.readings", 0, n, NOW_MS, b"a", msgspec.json.encode(body)))
    return records


class Seen:
    """What is compared: everything that leaves, and what every model has become."""

    def __init__(self, out: list[Outgoing], decisions: list[Decision], learner: Learner, scorer: Scorer):
        self.sent = {target: [record for record in out if record.target == target] for target in LOGS}
        self.decisions = decisions
        self.digests = learner.digests()
        self.updates = {name: c.updates for name, c in learner.roster.racers.items()}
        self.line_up = (learner.roster.champion, learner.roster.previous, learner.roster.quarantined)
        self.state = {**learner.snapshot(), **scorer.snapshot()}
        self.counts = Counter({name: count for name, count in scorer.counts.items() if count})


LOGS = ("predictions", "shadow-predictions", "examples", "dead-letters")


def parts(pipeline: Pipeline) -> tuple[Learner, Scorer, Record]:
    learner = build_learner(pipeline, keys=SigningKeys({"": b"k" * 32}))
    writer = Writer(0, 1)
    scorer = Scorer(pipeline, partition=0, roster=learner.roster, writer=writer, suppression=Suppression())
    return learner, scorer, Record("e", 0, 0, 0, None, encode(Claim(0, 1)), headers.CLAIM)


def read_back(pipeline: Pipeline, events: list[Record]) -> Seen:
    learner, scorer, claim = parts(pipeline)
    learner.fold([claim])
    out: list[Outgoing] = []
    decisions: list[Decision] = []
    offset = 1
    for event in events:
        scorer.intake.offer_events([event])
        run = scorer.intake.next_run(events_unread=False, labels_unread=False)
        assert run is not None
        sent = [*chain.from_iterable(scorer.step(run, NOW_MS))]
        for record in sent:
            if record.target == "examples":
                decisions += learner.fold(
                    [Record("e", 0, offset, 0, record.key, record.value, record.headers)]
                )
                offset += 1
        out += sent
    return Seen(out, decisions, learner, scorer)


def learned_at_once(pipeline: Pipeline, events: list[Record], size: int) -> Seen:
    learner, scorer, claim = parts(pipeline)
    learner.fold([claim])
    decisions: list[Decision] = []
    scorer.learn_with(learner, lambda decided, _: decisions.extend(decided))
    out: list[Outgoing] = []
    for start in range(0, len(events), size):
        scorer.intake.offer_events(events[start : start + size])
        while run := scorer.intake.next_run(events_unread=False, labels_unread=False):
            out += [*chain.from_iterable(scorer.step(run, NOW_MS))]
    return Seen(out, decisions, learner, scorer)


@pytest.mark.parametrize("size", [1, 5, 64])
@pytest.mark.parametrize(
    ("task", "label_windows", "broken", "opens"),
    [
        ("binary", False, True, {}),
        ("binary", False, False, {}),
        ("binary", True, True, {}),
        ("regression", False, False, {}),
        ("binary", False, True, {"opening": "blend"}),
        ("binary", True, False, {"opening": "blend", "blends": True}),
        ("binary", False, True, {"opening": "leader"}),
        ("regression", False, False, {"opening": "blend", "blends": True}),
        ("binary", True, True, {"watched": True}),
        ("binary", False, True, {"watched": True, "opening": "leader"}),
    ],
)
@pytest.mark.parametrize("seed", SEEDS)
def test_runs_learned_at_once_equal_the_log_folded_record_by_record(
    task: str, label_windows: bool, broken: bool, opens: dict[str, Any], size: int, seed: int
) -> None:
    pipeline = definition(task, label_windows=label_windows, **opens)
    events = history(seed, broken=broken)
    expected, found = read_back(pipeline, events), learned_at_once(pipeline, events, size)
    assert found.decisions == expected.decisions
    for target in LOGS:
        assert found.sent[target] == expected.sent[target], target
    assert (found.digests, found.updates, found.line_up) == (
        expected.digests,
        expected.updates,
        expected.line_up,
    )
    assert found.counts == expected.counts
    assert found.state.keys() == expected.state.keys()
    # Models and metrics are compared by what they say; what a repeat needs is kept in another form.
    other = ("model/", "metrics", "drift/", "join/")
    for name, data in expected.state.items():
        assert name.startswith(other) or found.state[name] == data, name


def test_the_histories_hold_what_they_are_for() -> None:
    seen: Counter[str] = Counter()
    for seed in SEEDS:
        for broken in (True, False):
            found = learned_at_once(
                definition("binary", label_windows=False), history(seed, broken=broken), 64
            )
            seen.update(decision.type for decision in found.decisions)
            reasons = [d.reason for d in found.decisions if d.type == "model.quarantined"]
            seen.update("learning" if reason.startswith("learning") else "scoring" for reason in reasons)
            seen.update(found.counts)
            seen["started within a run"] += sum(
                d.type == "challenger.started" and d.offset % 64 not in (0, 63) for d in found.decisions
            )
    for wanted in (
        "model.promoted",
        "challenger.started",
        "challenger.retired",
        "drift.detected",
        "drift.improved",
        "learning",
        "scoring",
        "started within a run",
        ("events", "duplicate"),
        ("events", "late"),
        ("events", "beyond_horizon"),
        ("predictions", "previous"),
        ("predictions", "prior"),
    ):
        assert seen[wanted], wanted  # type: ignore[index]  # counts are by text and by pair
