"""Test, then train: River's progressive validation, and who suffers when a model does."""

from __future__ import annotations

import csv
import itertools
import pickle

import pytest
from river import (
    base,
    datasets,
    drift,
    evaluate,
    linear_model,
    metrics,
    naive_bayes,
    optim,
    preprocessing,
    tree,
)

from operators.drift.detectors import Detectors, Drift
from operators.models.scoring import Racer, Reply, Roster, Scoring
from operators.race.arena import Arena
from operators.race.evaluation import Brier, Evaluation
from operators.race.evidence import Evidence, Promotion
from operators.race.learning import Learning
from operators.race.losses import loss_of
from topics.messages import Example


class Race:
    """All parts of a learner in one process, fed row by row."""

    def __init__(self, task, models, chosen=None, drifts=(), **promotion):
        settings = Promotion(**promotion)
        candidates = [Racer(name, model, version=n) for n, (name, model) in enumerate(models.items(), 1)]
        self.roster = Roster(task, candidates, next(iter(models)))
        self.arena = Arena("p", 0, self.roster, settings)
        self.evaluation = Evaluation(task, chosen, pickle.dumps, pickle.loads)
        self.detectors = Detectors(drifts, pickle.dumps, pickle.loads)
        self.evidence = Evidence(settings, opening=True)
        loss = loss_of(task, settings.loss)
        self.learning = Learning(task, self.arena, self.evaluation, self.detectors, self.evidence, loss)
        self.scoring = Scoring(task, self.roster)
        self.decisions = []
        self.served = []

    def row(self, x, y):
        n = self.learning.examples
        served = self.scoring.serve(x)
        scores = self.scoring.shadow_all([Reply(x, served.model_name, served.score, served.scores)])[0].scores
        example = Example(
            str(n),
            "k",
            n,
            n,
            y,
            x,
            scores,
            served.score,
            served.served_by,
            served.model_name,
            0,
            n,
            n,
            claim=1,
            sequence=n,
        )
        self.served.append(served)
        self.decisions += self.learning.step([example], n)


def scaled(model):
    return preprocessing.StandardScaler() | model


@pytest.mark.parametrize(
    ("task", "dataset", "model", "metric"),
    [
        ("binary", datasets.Phishing(), scaled(linear_model.LogisticRegression()), metrics.LogLoss()),
        ("binary", datasets.Bananas(), tree.HoeffdingTreeClassifier(grace_period=50), metrics.Accuracy()),
        ("binary", datasets.Phishing(), tree.HoeffdingTreeClassifier(grace_period=50), metrics.ROCAUC()),
        ("binary", datasets.Phishing(), scaled(linear_model.ALMAClassifier()), metrics.F1()),
        ("multiclass", datasets.ImageSegments(), naive_bayes.GaussianNB(), metrics.MacroF1()),
        (
            "multiclass",
            datasets.ImageSegments(),
            tree.HoeffdingTreeClassifier(grace_period=50),
            metrics.CrossEntropy(),
        ),
        ("regression", datasets.TrumpApproval(), scaled(linear_model.LinearRegression()), metrics.MAE()),
        ("regression", datasets.TrumpApproval(), tree.HoeffdingTreeRegressor(grace_period=50), metrics.R2()),
    ],
)
def test_one_model_equals_progressive_val_score(task, dataset, model, metric):
    rows = [row for row, _ in zip(dataset, range(1_000), strict=False)]
    expected = evaluate.progressive_val_score(iter(rows), model.clone(), metric.clone()).get()
    race = Race(task, {"a": model.clone()}, [metric])
    for x, y in rows:
        race.row(x, y)
    found = pytest.approx(expected, rel=1e-12)
    assert race.evaluation.model_scores()["a"] == {type(metric).__name__: found}
    assert race.evaluation.served_scores() == {type(metric).__name__: found}
    assert race.decisions == []


class Recorder(base.Classifier):
    """Writes down what happens to it."""

    def __init__(self):
        self.learned = []

    def predict_proba_one(self, x):  # noqa: ARG002
        p = len(self.learned) / 10
        return {True: p, False: 1 - p}

    def learn_one(self, x, y):
        self.learned.append((dict(x), y))


def test_an_example_is_tested_before_it_is_learned():
    race = Race("binary", {"a": Recorder()}, [metrics.LogLoss()])
    for n in range(3):
        race.row({"n": n}, True)
    assert [served.score for served in race.served] == [0.0, 0.1, 0.2]
    assert [served.model_updates for served in race.served] == [0, 1, 2]
    model = race.roster.racers["a"].model
    assert model.learned == [({"n": n}, True) for n in range(3)]
    assert race.roster.prior.score() == 1.0


class Fragile(Recorder):
    """Cannot learn the fourth example."""

    def learn_one(self, x, y):
        super().learn_one(x, y)
        if len(self.learned) == 4:
            raise ZeroDivisionError("division by zero")


def test_a_model_that_cannot_learn_leaves_and_the_others_go_on():
    race = Race("binary", {"weak": Fragile(), "good": Recorder()}, [metrics.Accuracy()])
    for n in range(6):
        race.row({"n": n}, True)
    assert [(d.type, d.model_name, d.reason, d.offset) for d in race.decisions] == [
        ("model.quarantined", "weak", "learning: ZeroDivisionError: division by zero", 3),
        ("model.promoted", "good", "quarantine", 3),
    ]
    assert [served.model_name for served in race.served] == ["weak"] * 4 + ["good"] * 2
    assert (race.roster.racers["weak"].updates, race.roster.racers["good"].updates) == (3, 6)
    assert race.evaluation.counts()["weak"] == (4, 0)


class Constant(Recorder):
    """The same opinion for ever; wrong by `1 - p`, as every label here is True."""

    def __init__(self, p, noise=0.0):
        super().__init__()
        self.p, self.noise = p, noise

    def predict_proba_one(self, x):
        p = self.p + self.noise * (x["n"] % 3 - 1)
        return {True: p, False: 1 - p}


def test_a_proven_challenger_answers_the_next_event():
    models = {"bad": Constant(0.3), "good": Constant(0.9, noise=0.05)}
    race = Race("binary", models, [], min_examples=100, evidence_block=4, false_swap_every=1_000)
    for n in range(600):
        race.row({"n": n}, True)
    [swap] = race.decisions
    assert (swap.type, swap.from_model, swap.model_name) == ("model.promoted", "bad", "good")
    assert swap.evidence["evidence"] >= swap.evidence["threshold"] == 250
    assert swap.evidence["examples"] >= 100
    assert race.served[swap.offset].model_name == "bad"
    assert race.served[swap.offset + 1].model_name == "good"
    assert race.evidence.standing().keys() == {"bad"}, "the dethroned is compared with the new champion"


def test_the_same_rows_make_the_same_decisions():
    def run():
        models = {"bad": Constant(0.3), "good": Constant(0.9, noise=0.05)}
        race = Race("binary", models, [], [Drift(drift.ADWIN())], min_examples=100, evidence_block=4)
        for n in range(800):
            race.row({"n": n}, n % 7 > 1)
        return race.decisions, race.learning.snapshot(), race.evidence.snapshot(), race.arena.snapshot()

    assert run() == run()


class Turning(Recorder):
    """Right with probability `before` until row 2,000, `after` from there on."""

    def __init__(self, before, after):
        super().__init__()
        self.before, self.after = before, after

    def predict_proba_one(self, x):
        p = self.before if x["n"] < 2_000 else self.after
        return {True: p, False: 1 - p}


@pytest.mark.parametrize(
    ("model", "kind", "clones"),
    [(Turning(0.9, 0.4), "drift.detected", 1), (Turning(0.4, 0.9), "drift.improved", 0)],
)
def test_only_a_risen_loss_starts_a_challenger(model, kind, clones):
    race = Race("binary", {"a": model}, [], [Drift(drift.ADWIN())], fresh_challengers_max=1)
    for n in range(2_300):
        race.row({"n": n}, True)
    kinds = [decision.type for decision in race.decisions]
    assert kinds[0] == kind
    assert kinds.count("challenger.started") == clones
    assert len(race.roster.racers) == 1 + clones
    assert race.roster.champion == "a", "drift never swaps"
    if clones:
        assert race.roster.racers["a-2"].updates == 2_300 - 1 - race.decisions[0].offset


def test_scores_of_who_has_left_are_not_counted():
    race = Race("binary", {"a": Constant(0.8), "b": Constant(0.7)}, [metrics.Accuracy()])
    race.row({"n": 0}, True)
    race.learning.quarantine("b", "sick", 1)
    late = Example("late", "k", 0, 0, True, {"n": 1}, {"a": 0.8, "b": 0.7, "gone": 0.1}, 0.8, "champion", "a",
                   0, 1, 1, claim=1, sequence=1)  # fmt: skip
    race.learning.step([late], 2)
    assert race.evaluation.counts() == {"served": (2, 0), "a": (2, 0), "b": (1, 0)}
    assert race.evidence.standing() == {}


@pytest.mark.data
def test_the_race_on_elec2_swaps_twice(data_dir):
    with (data_dir / "elec2" / "electricity.csv").open() as lines:
        rows = list(itertools.islice(csv.DictReader(lines), 20_000))
    race = Race(
        "binary",
        {
            "tree": tree.HoeffdingTreeClassifier(),
            "linear": scaled(linear_model.LogisticRegression(optim.SGD(0.005))),
            "adaptive": tree.HoeffdingAdaptiveTreeClassifier(seed=42),
        },
        [Brier()],
    )
    for row in rows:
        label = row.pop("class") == "UP"
        race.row({name: float(value) for name, value in row.items()}, label)
    swaps = [decision.model_name for decision in race.decisions]
    assert swaps == ["adaptive", "linear"]
    singles = [scores["Brier"] for scores in race.evaluation.model_scores().values()]
    assert race.evaluation.served_scores()["Brier"] < sum(singles) / len(singles)
