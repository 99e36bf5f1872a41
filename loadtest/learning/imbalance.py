"""Fraud, where one label in a hundred is true: what River's remedies for rare classes are worth.

Lives here: the stream, the remedies, the simple rules beside them, the figures of each.  Never here: tables.

The handbook's transactions at one terminal in `ONE_TERMINAL_IN`, verdicts a week later, the features of
`examples/fraud`.  A missed fraud costs as much as `COSTS["fn"]` false alarms, and every remedy but two is set
for that price: the answer true pays from a probability of 1 / 21 on, and where frauds weigh twenty-fold, or
are `RARE_SHARE_WANTED` of what is learned, that is a score of one half.  (Hard sampling and the focal loss
know no price.)  All candidates race at once, so every figure is over the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from river import base, imblearn, linear_model, metrics, optim, preprocessing, tree

from engine import Pipeline, Promotion
from engine.definition.file import load_pipeline
from loadtest.learning.stream_run import StreamRun, stream_run_of
from topics.codec import encode_json
from topics.errors import SettingsError
from topics.messages import Score

__all__ = ["COSTS", "PRICED", "REMEDIES", "Rare", "imbalance"]

DAY_MS = 86_400_000
VERDICT_MS = 7 * DAY_MS
ONE_TERMINAL_IN = 20
"""Terminals are kept whole, for most frauds are of a terminal; customers are thinner than they are."""
SETTLED_DAYS = 37
"""Days that are not measured: windows of a month, which end a week ago, fill first."""
COSTS: Mapping[str, float] = {"fp": 1.0, "fn": 20.0}
PRICED = COSTS["fp"] / (COSTS["fp"] + COSTS["fn"])
"""The probability from which on an alarm costs less than silence (C. Elkan, "The foundations of
cost-sensitive learning", 2001)."""
RATE = 0.008
RARE_SHARE_WANTED = COSTS["fn"] * RATE / (COSTS["fn"] * RATE + 1.0 - RATE)
"""The share of frauds among what is learned at which PRICED becomes one half."""
WANTED = {False: 1.0 - RARE_SHARE_WANTED, True: RARE_SHARE_WANTED}
LARGE = 220.0
"""The handbook's own rule: an amount above is fraud."""
HARDEST, HARD_SHARE = 40, 0.1
"""As in River's documentation."""
_EXAMPLE = Path(__file__).parents[2] / "examples" / "fraud" / "pipeline.py"


class Rare(NamedTuple):
    """What one way to answer is worth, on all rows that are measured."""

    f1: float
    recall: float
    precision: float
    mcc: float
    roc_auc: float | None
    """None for a rule, which has no scores; River's, at ten thresholds."""
    cost: float
    """Of a thousand answers, in false alarms."""


Remedy = Callable[[base.Classifier], base.Classifier]


def _linear(loss: optim.losses.BinaryLoss | None = None) -> linear_model.LogisticRegression:
    return linear_model.LogisticRegression(loss=loss)


REMEDIES: Mapping[str, Remedy] = {
    "plain": lambda model: model,
    "RandomUnderSampler": lambda model: imblearn.RandomUnderSampler(model, WANTED, seed=1),
    "RandomOverSampler": lambda model: imblearn.RandomOverSampler(model, WANTED, seed=1),
    "RandomSampler": lambda model: imblearn.RandomSampler(model, WANTED, seed=1),
    "HardSamplingClassifier": lambda model: imblearn.HardSamplingClassifier(
        model, size=HARDEST, p=HARD_SHARE, seed=1
    ),
}
OF_TREES = ("plain", "RandomUnderSampler", "RandomOverSampler")
LOSSES: Mapping[str, Callable[[], optim.losses.BinaryLoss]] = {
    "Log(weight_pos=20)": lambda: optim.losses.Log(weight_pos=COSTS["fn"]),
    "BinaryFocalLoss": optim.losses.BinaryFocalLoss,
}


def candidates() -> dict[str, tuple[str, str, base.Estimator]]:
    """Return (model, remedy, estimator) by a candidate's name."""
    made: list[tuple[str, str, base.Estimator]] = [
        ("linear", remedy, preprocessing.StandardScaler() | wrap(_linear()))
        for remedy, wrap in REMEDIES.items()
    ]
    made += [
        ("linear", remedy, preprocessing.StandardScaler() | _linear(loss()))
        for remedy, loss in LOSSES.items()
    ]
    made += [("tree", remedy, REMEDIES[remedy](tree.HoeffdingTreeClassifier())) for remedy in OF_TREES]
    return {f"{model}-{number}": (model, remedy, one) for number, (model, remedy, one) in enumerate(made)}


def imbalance_race(**options: Any) -> Pipeline:
    """Return the example's pipeline with every remedy as a candidate."""
    models = {name: one for name, (_, _, one) in candidates().items()}
    return replace(load_pipeline(_EXAMPLE), models=models, **options)


class Fraud(NamedTuple):
    """The stream: its lines, and what the rules beside it look at."""

    rows: list[dict[str, Any]]
    """Transactions in order, with `time` in ms."""
    events: list[bytes]
    labels: list[bytes]


def fraud(folder: Path) -> Fraud:
    """Return the transactions that are raced on.  Raises SettingsError where the file is missing."""
    path = folder / "fraud_handbook" / "dev_apr_jul.parquet"
    if not path.is_file():
        raise SettingsError(
            f"there is no file {path}", hint="give the folder of the data sets: --data DIR or HEADRACE_DATA"
        )
    table = (
        pl.scan_parquet(path)
        .filter(pl.col("TERMINAL_ID") % ONE_TERMINAL_IN == 0)
        .with_columns(pl.col("TX_DATETIME").dt.epoch("ms").alias("time"))
        .sort("TX_DATETIME", "TRANSACTION_ID")
        .collect()
    )
    return fraud_of(list(table.iter_rows(named=True)))


def fraud_of(rows: list[dict[str, Any]]) -> Fraud:
    """Return transactions, in order of time, as the lines of events and labels."""
    events, labels = [], []
    for row in rows:
        about = {"event_id": str(row["TRANSACTION_ID"]), "customer": f"c{row['CUSTOMER_ID']}"}
        said = {"event_time": row["time"], "terminal": f"t{row['TERMINAL_ID']}", "amount": row["TX_AMOUNT"]}
        events.append(encode_json({**about, **said}))
        verdict = {"label": row["TX_FRAUD"] == 1, "label_time": row["time"] + VERDICT_MS}
        labels.append(encode_json({**about, **verdict}))
    return Fraud(rows, events, labels)


def imbalance(data: Fraud, jobs: int) -> dict[str, dict[str, tuple[Rare | None, Rare]]]:
    """Return what each remedy is worth, at a score of one half and at PRICED, by model and remedy.

    `rules` and `served` stand beside the models: a rule has one answer, whatever the bar, and what was served
    is of a race by the defaults, whose swaps no bar changes, and of one by `Promotion(cost=...)` that answers
    at PRICED.  `jobs` of the two run at the same time.
    """
    with ProcessPoolExecutor(jobs) as pool:
        usual, priced = pool.map(partial(_run, data), (None, COSTS), (0.5, PRICED))
    settled = data.rows[0]["time"] + SETTLED_DAYS * DAY_MS
    first = sum(row["time"] < settled for row in data.rows)
    truths = [bool(label) for label in usual.labels][first:]

    def at(bar: float, scores: Sequence[Score]) -> Rare:
        return worth(truths, scores[first:], bar)

    found: dict[str, dict[str, tuple[Rare | None, Rare]]] = {"rules": {}}
    for rule, answers in rules(data.rows).items():
        one = at(0.5, answers)._replace(roc_auc=None)
        found["rules"][rule] = one, one
    for name, (model, remedy, _) in candidates().items():
        scores = usual.scores[name]
        found.setdefault(model, {})[remedy] = at(0.5, scores), at(PRICED, scores)
    found["served"] = {
        "Promotion()": (at(0.5, usual.served), at(PRICED, usual.served)),
        "Promotion(cost=...)": (None, at(PRICED, priced.served)),
    }
    return found


def _run(data: Fraud, cost: Mapping[str, float] | None, threshold: float) -> StreamRun:
    pipeline = imbalance_race(promotion=Promotion(cost=cost), threshold=threshold)
    return stream_run_of(pipeline, data.events, data.labels)


def rules(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Score]]:
    """Return the answers of rules that anybody could write, as scores of 0 and 1, by rule."""
    return {
        "never": [0.0] * len(rows),
        f"amount > {LARGE:g}": [float(row["TX_AMOUNT"] > LARGE) for row in rows],
        f"amount > {LARGE:g}, or the terminal's last verdict was fraud": [*map(float, _after_frauds(rows))],
    }


def _after_frauds(rows: Sequence[Mapping[str, Any]]) -> Iterator[bool]:
    """Yield the answer of the best of the rules, by verdicts that are known at each transaction."""
    told: dict[int, bool] = {}
    known = 0
    for row in rows:
        while rows[known]["time"] + VERDICT_MS <= row["time"]:
            told[rows[known]["TERMINAL_ID"]] = rows[known]["TX_FRAUD"] == 1
            known += 1
        yield row["TX_AMOUNT"] > LARGE or told.get(row["TERMINAL_ID"], False)


def worth(truths: Sequence[bool], scores: Sequence[Score], bar: float) -> Rare:
    """Return the figures of scores, whose answer is true above `bar`; without an opinion it is false."""
    river: Any = metrics  # untyped
    counts, area = river.ConfusionMatrix(), river.ROCAUC()
    for truth, score in zip(truths, scores, strict=True):
        assert score is None or isinstance(score, float)
        counts.update(truth, score is not None and score > bar)
        area.update(truth, score or 0.0)
    kinds = river.F1, river.Recall, river.Precision, river.MCC
    f1, recall, precision, mcc = (kind(cm=counts).get() for kind in kinds)
    wrong = counts[False][True] * COSTS["fp"] + counts[True][False] * COSTS["fn"]
    return Rare(f1, recall, precision, mcc, area.get(), 1_000.0 * wrong / len(truths))
