"""A backtest equals bare River, with and without delay, and the figures published for these streams."""

import csv
import datetime as dt
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from river import (
    base,
    datasets,
    evaluate,
    linear_model,
    metrics,
    naive_bayes,
    optim,
    preprocessing,
    tree,
)

from engine import Labels, Pipeline, Topic
from engine.offline.backtest import LocalRun, backtest
from operators import field
from topics.messages import Record

ROW_MS = 1_800_000
START_MS = 831_859_200_000


def rows_of(dataset: Iterable[tuple[dict[str, Any], Any]]) -> Iterator[tuple[dict[str, float], Any]]:
    for x, y in dataset:
        yield (
            {
                f"x_{name}".replace("-", "_"): value
                for name, value in x.items()
                if not isinstance(value, str | dt.datetime)
            },
            y,
        )


def definition(names: Iterable[str], models: dict[str, Any], *, delayed: bool, **options: Any) -> Pipeline:
    fields: list[Any] = [("event_id", str), ("event_time", int), ("key", str)]
    fields += [(name, float | int | bool) for name in names]
    if not delayed:
        fields.append(("label", bool if options.pop("binary", True) else float))
    else:
        options.pop("binary", None)
    event = msgspec.defstruct("Row", fields)
    return Pipeline(
        name="rows",
        events=Topic("rows.events", event, key="key"),
        labels=Labels("rows.labels", wait="3650d") if delayed else Labels(field="label"),
        features={name: field(name) for name in names},
        models=models,
        **{"champion": next(iter(models)), "drift": ()} | options,
    )


def lines(
    folder: Path, rows: Iterable[tuple[dict[str, float], Any]], delay: int | None
) -> tuple[Path, Path | None]:
    """Write events, and labels that come `delay` rows later (None: inside the events)."""
    events, labels = folder / "events.jsonl", folder / "labels.jsonl"
    with events.open("w") as event_file, labels.open("w") as label_file:
        for number, (x, y) in enumerate(rows):
            time = START_MS + number * ROW_MS
            row = {"event_id": str(number), "event_time": time, "key": "k", **x}
            if delay is None:
                row["label"] = y
            else:
                label = {"event_id": str(number), "label": y, "label_time": time + delay * ROW_MS, "key": "k"}
                label_file.write(json.dumps(label) + "\n")
            event_file.write(json.dumps(row) + "\n")
    return events, labels if delay is not None else None


def logistic(rate: float = 0.005) -> base.Estimator:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.SGD(rate))


def alma() -> base.Estimator:
    return preprocessing.StandardScaler() | linear_model.ALMAClassifier()


@pytest.fixture(scope="module")
def elec2(data_dir: Path) -> list[tuple[dict[str, float], bool]]:
    with (data_dir / "elec2" / "electricity.csv").open() as file:
        return [
            ({name: float(value) for name, value in row.items() if name != "class"}, row["class"] == "UP")
            for row in csv.DictReader(file)
        ]


@pytest.mark.data
@pytest.mark.parametrize(
    ("delay", "models", "expected"),
    [
        (
            0,
            {
                "lr": logistic(),
                "ht": tree.HoeffdingTreeClassifier(),
                "hat": tree.HoeffdingAdaptiveTreeClassifier(seed=42),
                "alma": alma(),
            },
            {"lr": 0.8221, "ht": 0.7985, "hat": 0.8319, "alma": 0.9064},
        ),
        (1, {"lr": logistic(), "alma": alma()}, {"lr": 0.8182, "alma": 0.8812}),
        (48, {"lr": logistic(), "alma": alma()}, {"lr": 0.7814, "alma": 0.7561}),
    ],
)
def test_elec2_to_four_digits(
    tmp_path: Path, elec2: Any, delay: int, models: dict[str, Any], expected: dict[str, float]
) -> None:
    pipeline = definition(elec2[0][0], models, delayed=True, metrics=[metrics.Accuracy()])
    events, labels = lines(tmp_path, elec2, delay + 1)
    report = backtest(pipeline, events, labels)
    found = {name: round(scores["Accuracy"], 4) for name, scores in report["on_own_rows"].items()}
    assert found == expected
    compared = {name: scores["Accuracy"] for name, scores in report["models"].items()}
    assert compared == pytest.approx(expected, abs=1e-4)
    assert len(set(report["rows"].values())) == 1
    assert report["examples"] == report["events"] == len(elec2)
    assert report["served"]["Accuracy"] > 0.7


@pytest.mark.data
def test_a_label_inside_the_event_is_learned_before_the_next_event(tmp_path: Path, elec2: Any) -> None:
    pipeline = definition(elec2[0][0], {"lr": logistic()}, delayed=False, metrics=[metrics.Accuracy()])
    events, _ = lines(tmp_path, elec2, None)
    report = backtest(pipeline, events, None)
    assert round(report["served"]["Accuracy"], 4) == 0.8221


SETS: list[tuple[type, Callable[[], Any], Callable[[], metrics.base.Metric]]] = [
    (datasets.Phishing, logistic, metrics.Accuracy),
    (datasets.Phishing, logistic, metrics.LogLoss),
    (datasets.Phishing, logistic, metrics.ROCAUC),
    (datasets.Phishing, tree.HoeffdingTreeClassifier, metrics.Accuracy),
    (datasets.Bananas, naive_bayes.GaussianNB, metrics.Accuracy),
    (datasets.Bananas, tree.HoeffdingTreeClassifier, metrics.ROCAUC),
    (
        datasets.TrumpApproval,
        lambda: preprocessing.StandardScaler() | linear_model.LinearRegression(),
        metrics.MAE,
    ),
    (datasets.TrumpApproval, tree.HoeffdingTreeRegressor, metrics.RMSE),
]


@pytest.mark.parametrize(("dataset", "model", "metric"), SETS)
@pytest.mark.parametrize("delay", [None, 1, 20])
def test_equal_to_progressive_val_score(
    tmp_path: Path,
    dataset: type,
    model: Callable[[], Any],
    metric: Callable[[], metrics.base.Metric],
    delay: int | None,
) -> None:
    rows = list(rows_of(dataset()))
    binary = isinstance(rows[0][1], bool)
    pipeline = definition(
        rows[0][0], {"m": model()}, delayed=delay is not None, binary=binary, metrics=[metric()]
    )
    events, labels = lines(tmp_path, rows, delay)
    report = backtest(pipeline, events, labels)

    timed = [
        ({**x, "__t": dt.datetime.fromtimestamp(n * ROW_MS / 1000, dt.UTC)}, y)
        for n, (x, y) in enumerate(rows)
    ]
    if delay is None:
        oracle = evaluate.progressive_val_score(rows, model(), metric())
    else:
        select = preprocessing_without_time(model())
        oracle = evaluate.progressive_val_score(
            timed, select, metric(), moment="__t", delay=dt.timedelta(milliseconds=delay * ROW_MS)
        )
    name = type(oracle).__name__
    assert report["served"][name] == pytest.approx(oracle.get(), rel=1e-12, abs=1e-12)


def preprocessing_without_time(model: Any) -> Any:
    from river import compose

    return compose.Discard("__t") | model


def test_late_arrivals_in_a_file_are_read_in_line_order_and_bad_lines_are_counted(tmp_path: Path) -> None:
    pipeline = definition(["a"], {"lr": logistic()}, delayed=True)
    events, labels = lines(tmp_path, [({"a": float(n % 7)}, n % 2 == 0) for n in range(50)], 2)
    with events.open("a") as file:
        file.write('{"event_id": "x"}\n\nnot json\n')
    assert labels is not None
    report = backtest(pipeline, events, labels)
    assert (report["events"], report["dead_letters"], report["examples"]) == (52, 2, 50)


def test_warmup_leaves_the_first_events_out_of_the_metrics(tmp_path: Path) -> None:
    rows = [({"a": float(n % 5)}, n % 5 > 2) for n in range(400)]
    events, _ = lines(tmp_path, rows, None)
    pipeline = definition(["a"], {"lr": logistic(0.5)}, delayed=False, metrics=[metrics.Accuracy()])
    cold = backtest(pipeline, events, None)["served"]["Accuracy"]
    warm = backtest(pipeline, events, None, warmup=300)["served"]["Accuracy"]
    assert warm > cold


def test_folding_the_examples_of_a_backtest_gives_its_models(tmp_path: Path) -> None:
    from engine.worker.assembly import build_learner

    rows = [({"a": float(n % 5), "b": float(n % 3)}, n % 5 > 2) for n in range(600)]
    pipeline = definition(["a", "b"], {"lr": logistic(), "ht": tree.HoeffdingTreeClassifier()}, delayed=False)
    run = LocalRun(pipeline, keep_examples=True)
    events, _ = lines(tmp_path, rows, None)
    records = [
        Record("rows.events", 0, n, None, None, line)
        for n, line in enumerate(events.read_bytes().splitlines())
    ]
    run.scorer.intake.offer_events(records)
    while run.advance() is not None:
        pass
    assert run.examples is not None
    learner = build_learner(pipeline)
    learner.fold(run.examples)
    assert learner.digests() == run.learner.digests()
    assert learner.examples == 600
