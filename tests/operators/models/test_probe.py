"""Which guard River's models need, and that it is enough; models that cannot do their work are refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from river import (
    active,
    anomaly,
    base,
    compose,
    drift,
    ensemble,
    feature_extraction,
    forest,
    linear_model,
    multiclass,
    naive_bayes,
    preprocessing,
    stats,
    tree,
)
from river_zoo import ZOO, Animal, ask, event, label
from test_cli import headrace

from engine import Drift, Labels, Pipeline, Topic
from engine.worker.assembly import build_learner
from engine.worker.model_factory import probe_models
from operators import by, field
from operators.language.by import label as label_of_events
from operators.models.digest import digest
from operators.models.guards import Copied, FirstLesson, KnownNames, KnownValues
from operators.models.probe import ProbeReport, check_model, guarded, probe, samples_for
from topics.errors import DefinitionError
from topics.messages import FeatureValues

LOG = 72
SLOW_EVERY = 8
"""Every third event is asked about, of forests every eighth: three digests and a copy take their time."""
NONE, FIRST, NAMES, VALUES, COPY = (), "first lesson", "known names", "known values", "copy"
EXPECTED = {
    "linear_model.LogisticRegression-0": NONE,
    "linear_model.BayesianLinearRegression-0": NONE,
    "naive_bayes.GaussianNB-0": NONE,
    "tree-mixed": NONE,
    "adaptive-mixed": NONE,
    "efdt-mixed": NONE,
    "forest.AMFClassifier-0": NONE,
    "hasher|logistic": NONE,
    "words|bayes": NONE,
    "forest.ARFClassifier-0": (FIRST,),
    "forest.ARFRegressor-0": (FIRST,),
    "ensemble.SRPClassifier-0": (FIRST,),
    "linear_model.AdPredictor-0": (FIRST,),
    "scaler|logistic": (NAMES,),
    "encoder|logistic": (NAMES,),
    "rbf|logistic": (NAMES,),
    "projection|logistic": (NAMES,),
    "facto.FMClassifier-0": (NAMES,),
    "scaler|one-vs-rest": (NAMES,),
    "encoder|bagging": (NAMES,),
    "filter|logistic": (NAMES,),
    "scaler|forest": (FIRST, NAMES),
    "machine-mixed": (VALUES,),
    "target-mean|logistic": (COPY,),
    "active.EntropySampler-0": (COPY,),
    "one-vs-rest(scaler)": (COPY,),
    "bagging(scaler)": (COPY,),
    "adwin-bagging(scaler)": (COPY,),
    "bagging(machine)": (COPY,),
    "retrained(forest)": (COPY,),
    "model_selection.BanditClassifier-0": (COPY,),
}


def odd_event(index: int, animal: Animal) -> FeatureValues:
    """Return an event whose names and texts change as a log's do: new ones come, old ones stay away."""
    x = event(index, animal.kinds)
    if index % 5 == 0:
        x[f"late{index // 20}"] = 1.0 + index % 3
    if index % 7 == 3:
        x.update({name: f"new{index // 20}" for name, value in x.items() if isinstance(value, str)})
    return x


@pytest.mark.parametrize("animal", ZOO, ids=lambda animal: animal.name)
def test_guarded_models_are_left_alone_and_answer_as_river_does(animal: Animal) -> None:
    fresh = animal.make()
    before = digest(fresh)
    report = probe(fresh, samples_for(animal.kinds), animal.task)
    assert digest(fresh) == before
    if animal.name in EXPECTED:
        assert report.guards == EXPECTED[animal.name]
    assert not report.error

    model = guarded(fresh, report)
    compared = 0
    every = SLOW_EVERY if "orest" in animal.name or "SRP" in animal.name else 3
    for index in range(LOG):
        x = odd_event(index, animal)
        if index % every:
            try_to_teach(model, x, index, animal)
            continue
        twin = copy.deepcopy(innermost(model))
        before = digest(model)
        answer = outcome(model, x, animal)
        assert digest(model) == before, f"changed at event {index}"
        river = outcome(twin, x, animal)
        if digest(twin) == digest(innermost(model)) and not untaught(model):
            compared += 1
            assert answer == river, f"event {index}"
        try_to_teach(model, x, index, animal)
    assert compared > LOG // every // 4 or COPY in report.guards


def innermost(model: Any) -> Any:
    """Return the bare model."""
    while isinstance(model, FirstLesson | KnownNames | KnownValues | Copied):
        model = model.model
    return model


def untaught(model: Any) -> bool:
    return isinstance(model, FirstLesson) and not model.taught


def outcome(model: Any, x: FeatureValues, animal: Animal) -> Any:
    """Return the prediction, or the name of what was raised: some models refuse what they never saw."""
    try:
        return ask(model, dict(x), animal.task)
    except Exception as error:  # noqa: BLE001 River's own refusals are compared by name
        return type(error).__name__


def try_to_teach(model: Any, x: FeatureValues, index: int, animal: Animal) -> None:
    y = label(index, animal.task)
    try:
        model.learn_one(dict(x), y)
    except (KeyError, ValueError):
        model.learn_one(event(index, animal.kinds), y)


def test_a_pure_model_costs_nothing() -> None:
    model = tree.HoeffdingTreeClassifier()
    assert guarded(model, probe(model, samples_for({"a": float}), "binary")) is model


def test_a_guard_comes_back_as_it_is() -> None:
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    report = probe(model, samples_for({"a": float}), "binary")
    guard = guarded(model, report)
    guard.learn_one({"a": 1.0}, True)
    assert guarded(guard, report) is guard
    assert probe(guard, samples_for({"a": float}), "binary") == report


def test_features_a_model_cannot_take_are_named() -> None:
    report = probe(linear_model.LogisticRegression(), samples_for({"city": str}), "binary")
    assert report.guards == (COPY,)
    assert "TypeError" in str(report)


def test_the_way_out_of_a_copy() -> None:
    """A scaler inside of bagging forgets; in front of it it does not."""
    inside = ensemble.ADWINBaggingClassifier(
        preprocessing.StandardScaler() | linear_model.LogisticRegression()
    )
    outside = preprocessing.StandardScaler() | ensemble.ADWINBaggingClassifier(
        linear_model.LogisticRegression()
    )
    samples = samples_for({"a": float, "b": float})
    assert probe(inside, samples, "binary").guards == (COPY,)
    assert probe(outside, samples, "binary").guards == (NAMES,)


def test_a_model_of_the_users_own_that_counts_its_predictions() -> None:
    class Counting(base.Classifier):
        def __init__(self) -> None:
            self.asked = 0

        def learn_one(self, x: FeatureValues, y: bool) -> None:
            pass

        def predict_proba_one(self, x: FeatureValues) -> dict[bool, float]:  # noqa: ARG002
            self.asked += 1
            return {True: 1 / self.asked, False: 1 - 1 / self.asked}

    model = Counting()
    report = probe(model, samples_for({"a": int}), "binary")
    assert report == ProbeReport((COPY,), ("before the first lesson", "after lessons", "at a new name"))
    assert model.asked == 0
    assert "slow" in str(report)
    assert [guarded(model, report).predict_proba_one({"a": 1})[True] for _ in range(3)] == [1.0, 1.0, 1.0]


def test_samples_have_the_types_asked_for() -> None:
    kinds: dict[str, type] = {"a": float, "b": int, "c": str, "d": bool}
    for sample in samples_for(kinds):
        assert {name: type(value) for name, value in sample.items()} == kinds


def test_samples_without_numbers_and_without_features() -> None:
    words = compose.Select("s") | preprocessing.OneHotEncoder() | linear_model.LogisticRegression()
    assert probe(words, samples_for({"s": str}), "binary").guards == NONE
    assert probe(forest.ARFClassifier(2, seed=1), samples_for({}), "binary").error == ""


MIXED: dict[str, type] = {"amount": float, "city": str, "count": int, "known": bool}
PAIRS = ("active.EntropySampler-0",)
NEEDS_FEATURES = ("facto.F", "facto.HOFM", "BayesianLinearRegression", "ComplementNB", "MultinomialNB")
"""Fail at a first event of no features; factorisation machines at one of fewer than two."""
NEEDS_THE_CITY = ("words|bayes", "target-mean|logistic")


@pytest.mark.parametrize("animal", ZOO, ids=lambda animal: animal.name)
def test_rivers_models_pass_with_all_features_and_with_missing_ones(animal: Animal) -> None:
    model = animal.make()
    before = digest(model)
    kinds = animal.kinds
    if animal.name in PAIRS:
        with pytest.raises(DefinitionError, match="tuple"):
            check_model("m", model, kinds, (), animal.task)
        return
    check_model("m", model, kinds, (), animal.task)
    assert digest(model) == before
    if animal.name in NEEDS_THE_CITY:
        with pytest.raises(DefinitionError, match="without `city`: KeyError"):
            check_model("m", model, kinds, {"city"}, animal.task)
    elif any(name in animal.name for name in NEEDS_FEATURES):
        check_model("m", model, kinds, {"known"}, animal.task)
    else:
        check_model("m", model, kinds, set(kinds), animal.task)


def refusal(model: Any, task: Any, kinds: dict[str, type] = MIXED, lacking: Any = ()) -> str:
    with pytest.raises(DefinitionError) as refused:
        check_model("it", model, kinds, lacking, task)
    return str(refused.value)


def test_a_text_feature_that_a_tree_regressor_cannot_learn_is_named() -> None:
    told = refusal(tree.HoeffdingTreeRegressor(), "regression")
    assert told.startswith("model `it` fails at learning: TypeError: VectorDict values must be real numbers")
    assert "(feature `city`, text)" in told
    assert "OneHotEncoder()" in told
    assert 'compose.Discard("city") | model' in told
    check_model("it", compose.Discard("city") | tree.HoeffdingTreeRegressor(), MIXED, (), "regression")


def test_several_text_features_are_found_together() -> None:
    told = refusal(linear_model.LinearRegression(), "regression", {"shop": str, "city": str, "n": int})
    assert "(features `shop`, `city`, text)" in told


class Moody(base.Classifier):
    """Answers what it is told to; `when` says of a row whether it fails at it."""

    def __init__(self, when: Any = None, answer: Any = None) -> None:
        self.when = when
        self.answer = answer

    def learn_one(self, x: dict[str, Any], y: Any) -> None:  # noqa: ARG002
        if self.when is not None and self.when(x):
            raise ArithmeticError("not\nthis one")

    def predict_proba_one(self, x: dict[str, Any]) -> dict[Any, float]:
        return {} if self.answer is None else self.answer(x)


def test_a_number_at_fault_is_named() -> None:
    told = refusal(Moody(when=lambda x: x.get("count", 0) > 2), "binary")
    assert "ArithmeticError: not this one (feature `count`, whole numbers)" in told
    assert 'compose.Discard("count")' in told


def test_a_fault_of_no_feature_shows_the_row() -> None:
    told = refusal(Moody(when=lambda _: True), "binary")
    assert "fails at learning: ArithmeticError: not this one\n" in told
    assert "try it by itself: learn_one({'amount': 0.0, 'city': 'a1'" in told


def test_a_score_that_is_no_number_is_refused() -> None:
    told = refusal(Moody(answer=lambda x: {True: float("nan") if x.get("known") else 0.5}), "binary")
    assert "fails at scoring: ValueError: score nan is not finite (feature `known`, true or false)" in told


def test_no_opinion_is_an_answer() -> None:
    check_model("it", Moody(), MIXED, set(MIXED), "binary")


def test_only_features_that_may_be_missing_are_taken_away() -> None:
    model = feature_extraction.BagOfWords(on="city") | naive_bayes.MultinomialNB()
    check_model("it", model, MIXED, {"amount", "count"}, "binary")
    told = refusal(model, "binary", lacking={"amount", "city"})
    assert "fails at scoring an event without `city`: KeyError: 'city'" in told
    assert '.default("")' in told


def test_what_only_fails_as_the_first_event_is_found() -> None:
    told = refusal(linear_model.BayesianLinearRegression(), "regression", {"n": float}, {"n"})
    assert "fails at learning an event without `n`" in told
    assert ".default(0)" in told


def test_a_text_that_no_lesson_had_is_tried() -> None:
    told = refusal(Moody(when=lambda x: x.get("city", "a0")[0] not in "ab"), "binary")
    assert "a text that it has not learned, of `city`" in told


def test_a_classifier_of_two_classes_is_refused_for_several() -> None:
    for model in (linear_model.LogisticRegression(), linear_model.AdPredictor()):
        told = refusal(model, "multiclass", {"n": float})
        assert "river.multiclass.OneVsRestClassifier" in told
    wrapped = multiclass.OneVsRestClassifier(linear_model.LogisticRegression())
    check_model("it", wrapped, {"n": float}, (), "multiclass")


# -- definitions ----------------------------------------------------------------------------------------


class Flow(msgspec.Struct):
    event_id: str
    event_time: int
    service: str
    src_bytes: float
    note: str | None = None


def pipeline(model: Any, **changes: Any) -> Pipeline:
    given: dict[str, Any] = {
        "name": "kdd",
        "events": Topic("kdd.events", Flow, key="service"),
        "labels": Labels("kdd.labels", wait="1h"),
        "features": {"src_bytes": field("src_bytes"), "service": field("service")},
        "models": {"it": model},
    }
    return Pipeline(**{**given, **changes})


def test_a_learner_of_models_that_cannot_work_is_not_built() -> None:
    with pytest.raises(DefinitionError, match=r"model `it` fails at learning.*`service`, text"):
        build_learner(pipeline(tree.HoeffdingTreeRegressor()))


def test_missing_features_are_those_that_the_definition_leaves_open() -> None:
    words = feature_extraction.BagOfWords(on="note") | naive_bayes.MultinomialNB()
    features = {"note": field("note"), "n": by("service").count("1h")}
    with pytest.raises(DefinitionError, match="without `note`"):
        probe_models(pipeline(words, features=features))
    probe_models(pipeline(words, features={**features, "note": field("note").default("")}))
    late = {"late": by("service").mean(label_of_events, "1h"), "shop": field("service")}
    by_service = feature_extraction.TargetAgg(by="late", how=stats.Mean()) | linear_model.LogisticRegression()
    with pytest.raises(DefinitionError, match="without `late`"):
        probe_models(pipeline(by_service, features=late))


def test_check_refuses_a_model_that_cannot_work(tmp_path: Path) -> None:
    path = tmp_path / "bikes.py"
    path.write_text(
        "import msgspec\nfrom river import tree\n"
        "from headrace import Labels, Pipeline, Topic, field\n"
        "class E(msgspec.Struct):\n    event_id: str\n    event_time: int\n    city: str\n    hour: int\n"
        "pipeline = Pipeline(name='bikes', events=Topic('b', E, key='city'), labels=Labels('l', wait='1h'),\n"
        "    features={'city': field('city'), 'hour': field('hour')},\n"
        "    models={'tree': tree.HoeffdingTreeRegressor()})\n"
    )
    done = headrace("check", str(path))
    assert done.returncode == 2
    assert "error: model `tree` fails at learning: TypeError" in done.stderr
    assert "feature `city`, text" in done.stderr
    path.write_text(path.read_text().replace("tree.Hoeffding", "compose.Discard('city') | tree.Hoeffding"))
    path.write_text(path.read_text().replace("import tree", "import compose, tree"))
    done = headrace("check", str(path), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["scoring"] == {}


@pytest.mark.parametrize(
    ("model", "task", "told"),
    [
        (tree.HoeffdingTreeRegressor(), "multiclass", "HoeffdingTreeRegressor, which is no classifier"),
        (anomaly.HalfSpaceTrees(seed=1), "multiclass", "HalfSpaceTrees, which is no classifier"),
        (preprocessing.StandardScaler() | anomaly.OneClassSVM(), "binary", "which is no classifier"),
        (tree.HoeffdingTreeClassifier(), "regression", "which is no regressor"),
        (
            active.EntropySampler(linear_model.LogisticRegression(), seed=1),
            "binary",
            r"answers with a pair[\s\S]*LogisticRegression\(\.\.\.\)",
        ),
        (tree.HoeffdingTreeClassifier(), "classification", "there is no task 'classification'"),
    ],
)
def test_a_model_of_the_wrong_kind_is_refused(model: Any, task: Any, told: str) -> None:
    with pytest.raises(DefinitionError, match=told):
        pipeline(model, task=task)


def test_one_vs_rest_means_several_classes() -> None:
    several = multiclass.OneVsRestClassifier(linear_model.LogisticRegression())
    assert pipeline(several).task == "multiclass"
    assert pipeline(several, task="binary").task == "binary"
    both = {"ovr": several, "lr": linear_model.LogisticRegression()}
    with pytest.raises(DefinitionError, match='task="binary" or task="multiclass"'):
        pipeline(None, models=both)
    assert pipeline(None, models=both, task="binary").task == "binary"


@pytest.mark.parametrize(
    ("detector", "on", "told"),
    [
        (drift.KSWIN(), "loss", r"KSWIN is random without a seed[\s\S]*seed=42"),
        (
            drift.ADWIN(),
            "feature:src_byte",
            r"`src_byte`, which does not exist[\s\S]*did you mean 'src_bytes'",
        ),
        (drift.ADWIN(), "feature:service", r"`service`, which is text[\s\S]*watch a number: src_bytes"),
        (drift.ADWIN(), "label", "watches the label, which is text"),
    ],
)
def test_a_detector_that_would_never_fire_is_refused(detector: Any, on: str, told: str) -> None:
    with pytest.raises(DefinitionError, match=told):
        pipeline(tree.HoeffdingTreeClassifier(), task="multiclass", drift=[Drift(detector, on=on)])
    seeded = drift.KSWIN(seed=1)
    pipeline(tree.HoeffdingTreeClassifier(), task="multiclass", drift=[Drift(seeded, on="feature:src_bytes")])
    pipeline(tree.HoeffdingTreeClassifier(), task="binary", drift=[Drift(drift.ADWIN(), on="label")])
