"""All series of a report are compared on the same rows; baselines know what was known; kappas follow."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import linear_model, metrics, tree

from engine import Labels, Pipeline, Topic
from engine.offline.score_table import KNOWN_MAX, ScoreTable, _Known
from operators import field
from operators.race.evaluation import SERVED, Evaluation, default_metrics
from topics.messages import Example, LabelValue, Score, Task


class Row(msgspec.Struct):
    event_id: str
    event_time: int
    key: str
    x: float


MODELS: dict[Task, dict[str, Any]] = {
    "binary": {"a": linear_model.LogisticRegression(), "b": tree.HoeffdingTreeClassifier()},
    "multiclass": {"a": tree.HoeffdingTreeClassifier(), "b": tree.HoeffdingTreeClassifier()},
    "regression": {"a": linear_model.LinearRegression(), "b": tree.HoeffdingTreeRegressor()},
}


def definition(task: Task) -> Pipeline:
    return Pipeline(
        name="rows",
        events=Topic("rows.events", Row, key="key"),
        labels=Labels("rows.labels", wait="1h"),
        features={"x": field("x")},
        models=MODELS[task],
        champion="a",
        task=task,
    )


def score_of(task: Task, rng: random.Random) -> Score:
    if rng.random() < 0.15:
        return None
    if task == "multiclass":
        chance = rng.random()
        return {"x": chance, "y": 1 - chance}
    return rng.random()


def examples(task: Task, count: int, seed: int) -> list[Example]:
    """Return examples in the order of their labels, with delays of 0 to 5 rows."""
    rng = random.Random(seed)
    rows = []
    for n in range(count):
        label: LabelValue = {"binary": rng.random() < 0.3, "multiclass": rng.choice("xyy")}.get(
            task, rng.random()
        )
        scores = {"a": score_of(task, rng), "b": score_of(task, rng)}
        time = 10 * n
        rows.append(
            Example(
                f"e{n}", "k", time, time + 10 * rng.randrange(6), label, {"x": 1.0}, scores, scores["a"],
                "champion", "a", 0, n, n, 1, n,
            )
        )  # fmt: skip
    return sorted(rows, key=lambda row: row.label_time)


def compared(task: Task, rows: list[Example], **settings: Any) -> dict[str, Any]:
    pipeline = definition(task)
    table = ScoreTable(pipeline, **settings)
    evaluation = Evaluation(task, None, lambda _: b"", lambda _: None, **settings)
    for row in rows:
        table.add(row)
        evaluation.add([row], [(None, dict.fromkeys(row.scores))])
    return table.report(evaluation, ["a", "b"], ())


@pytest.mark.parametrize("task", MODELS)
@pytest.mark.parametrize("seed", range(3))
def test_models_and_what_was_served_are_compared_on_the_same_rows(task: Task, seed: int) -> None:
    rows = examples(task, 300, seed)
    report = compared(task, rows)
    whole = [row for row in rows if None not in row.scores.values()]
    assert report["rows_left_out"] == len(rows) - len(whole) > 0
    assert {report["rows"][name] for name in (SERVED, "a", "b")} == {len(whole)}
    for name in ("a", "b"):
        for metric in default_metrics(task):
            for row in whole:
                score = row.scores[name]
                answer: Any = score
                if getattr(metric, "requires_labels", False):
                    answer = score > 0.5 if task == "binary" else max(score, key=score.get)  # type: ignore[operator, union-attr, arg-type, type-var]
                metric.update(row.label, answer)
            found = report["models"][name][type(metric).__name__]
            assert found == pytest.approx(metric.get(), rel=1e-9, abs=1e-9), metric
    assert report["served"] == report["models"]["a"]


def plain(task: Task, known: list[LabelValue]) -> list[Score]:
    if task == "regression":
        mean = sum(float(label) for label in known) / len(known) if known else None
        return [mean, float(known[-1]) if known else None]
    if task == "binary":
        share = sum(map(bool, known)) / len(known) if known else 0.5
        return [share, float(known[-1]) if known else 0.0, float(share > 0.5)]
    if not known:
        return [None, None, None]
    counts = Counter(known)
    shares = {str(name): count / len(known) for name, count in counts.items()}
    return [shares, {str(known[-1]): 1.0}, {}]


@pytest.mark.parametrize("task", MODELS)
@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 2)), max_size=40),
    st.lists(st.integers(-5, 60), min_size=1, max_size=8),
)
def test_baselines_know_what_was_known_at_the_event(
    task: Task, labels: list[tuple[int, int]], times: list[int]
) -> None:
    known, so_far = _Known(task), []
    for time, drawn in labels:
        label: LabelValue = {"binary": drawn > 0, "multiclass": "xyz"[drawn]}.get(task, float(drawn))
        known.add(time, label)
        so_far.append((max([time, *(at for at, _ in so_far)]), label))
    for time in times:
        expected = plain(task, [label for at, label in so_far if at <= time])
        found = known.scores(time)
        if task == "multiclass" and expected[2] is not None:
            shares = expected[0]
            assert isinstance(shares, dict)
            (common,) = found[2] or {}  # type: ignore[union-attr]
            assert shares[common] == max(shares.values())
            found, expected = found[:2], expected[:2]
        if task == "regression" and found[0] is not None:
            assert found[0] == pytest.approx(expected[0])
            found, expected = found[1:], expected[1:]
        assert found == expected


def test_old_labels_are_forgotten_and_counted_on() -> None:
    known = _Known("binary")
    for n in range(3 * KNOWN_MAX):
        known.add(n, n % 3 == 0)
    end = 3 * KNOWN_MAX
    assert known.scores(end) == [pytest.approx(1 / 3), 0.0, 0.0]
    back = end - 1_000
    assert known.scores(back)[0] == pytest.approx(1 / 3, abs=1e-4)
    assert known.scores(back)[1] == float(back % 3 == 0)


def test_kappas_are_what_a_series_gets_right_of_what_a_baseline_gets_wrong() -> None:
    rows = examples("binary", 400, 5)
    report = compared("binary", rows)
    floors = {name: report["baselines"][name]["Accuracy"] for name in ("zero rule", "last class")}
    for scores in (report["served"], report["models"]["b"], report["baselines"]["prior"]):
        right = scores["Accuracy"]
        for kappa, floor in (("KappaM", floors["zero rule"]), ("KappaT", floors["last class"])):
            assert scores[kappa] == pytest.approx((right - floor) / (1 - floor))
    names = list(report["served"])
    assert names[: names.index("KappaM") + 2] == ["Accuracy", "KappaM", "KappaT"]
    assert "LogLoss" not in report["baselines"]["last class"]
    assert report["baselines"]["prior"]["LogLoss"] > 0


def test_a_warm_up_counts_only_what_is_known() -> None:
    rows = examples("binary", 200, 2)
    report = compared("binary", rows, warmup_offset=150)
    late = [row for row in rows if row.event_offset >= 150 and None not in row.scores.values()]
    assert report["rows"]["prior"] == report["rows"]["a"] == len(late)
    loss = sum((row.label - row.scores["a"]) ** 2 for row in late) / len(late)  # type: ignore[operator]
    assert report["losses"]["a"] == pytest.approx(loss)
    assert report["judged_by"] == "Brier score"


def test_the_sick_are_not_compared_and_a_metric_that_takes_nothing_back_keeps_its_rows() -> None:
    class Kept(metrics.Accuracy):
        def revert(self, *_: Any) -> None:
            raise NotImplementedError

    rows = examples("binary", 100, 1)
    evaluation = Evaluation("binary", [Kept()], lambda _: b"", lambda _: None)
    table = ScoreTable(definition("binary"))
    for row in rows:
        table.add(row)
        evaluation.add([row], [(None, dict.fromkeys(row.scores))])
    report = table.report(evaluation, ["a", "b"], {"b"})
    assert report["models"]["b"] == {}
    assert "b" not in report["rows"]
    assert report["models"]["a"]["Kept"] == evaluation.model_scores()["a"]["Kept"]
