"""What is planted: shifts of a practical size and faults, as functions of one day.

Lives here: each plant, and how strong it must be for the loss to rise.  Never here: runs.

    covariate   rows are drawn again by their features alone: what a row means stays as it is
    label       rows are drawn again by their label alone: what rows of a class look like stays as it is
    concept     rows stay, labels change
    fault       features lose their values, their unit or their spelling; labels and events are refused
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from loadtest.shift.streams import Day, Days, Model, Values
from operators.drift.triage import ShiftKind

__all__ = ["PRACTICAL", "Plant", "Planted", "plants_of"]

PRACTICAL: Final = 0.1
"""A shift of practical size raises the loss by so much."""
STRENGTH_MAX: Final = 6.0
STEPS: Final = 12
POOL_DAYS: Final = 40
COVARIATES: Final = 3
"""Covariate shifts of one stream: the mildest that cost so much."""

Planted = Callable[[np.random.Generator, Day], Day]


class Plant(NamedTuple):
    """A shift or a fault, at the strength at which the loss rises by `PRACTICAL`, or as it is."""

    name: str
    verdict: ShiftKind
    change: Planted
    loss_rise: float
    """Of the frozen model, over days of the data."""
    strength: float = 0.0
    """Of a shift: how far it goes for that."""
    refused: float = 0.0
    """Share of labels and events that are refused from then on."""


def plants_of(stream: Days) -> list[Plant]:
    """Return everything that is planted into a stream; shifts that cannot cost so much are left out."""
    numeric = list(stream.model.numbers)
    made: list[tuple[str, ShiftKind, Callable[[float], Planted]]] = []
    made += [
        (f"{name} {way}", "covariate_shift", _tilted(name, stream, sign))
        for name in numeric
        for way, sign in (("up", 1.0), ("down", -1.0))
    ]
    made.append(("harder rows", "covariate_shift", _harder(stream.model)))
    made.append(
        ("more positives" if stream.model.task == "binary" else "larger labels", "label_shift", _prior)
    )
    made.append(("labels of some rows turned", "concept_drift", _turned(stream.model)))
    made.append(("labels of one half changed", "concept_drift", _half(stream)))
    found: list[Plant] = []
    for name, verdict, at in made:
        plant = _strong_enough(name, verdict, at, stream)
        if plant is not None:
            found.append(plant)
    covariates = [plant for plant in found if plant.verdict == "covariate_shift"]
    covariates.sort(key=lambda plant: plant.strength)
    others = [plant for plant in found if plant.verdict != "covariate_shift"]
    return [*covariates[:COVARIATES], *others, *_faults(stream)]


def _strong_enough(
    name: str, verdict: ShiftKind, at: Callable[[float], Planted], stream: Days
) -> Plant | None:
    """Return a plant at the least strength that raises the loss by `PRACTICAL`, or None where none does."""
    low, high = 0.0, STRENGTH_MAX
    if _rise(stream, at(high)) < PRACTICAL:
        return None
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if _rise(stream, at(middle)) >= PRACTICAL else (middle, high)
    return Plant(name, verdict, at(high), _rise(stream, at(high)), strength=high)


def _rise(stream: Days, change: Planted) -> float:
    rng = np.random.default_rng(7)
    days = stream.days[:: max(1, len(stream.days) // POOL_DAYS)]
    before = np.concatenate([_losses(stream.model, day) for day in days]).mean()
    after = np.concatenate([_losses(stream.model, change(rng, day)) for day in days]).mean()
    return float(after / before - 1.0)


def _losses(model: Model, day: Day) -> Values:
    return model.losses(day.labels, model.scores(day.columns))


# -- shifts -------------------------------------------------------------------------------------------


def _rows(day: Day, rows: Any) -> Day:
    """Return some rows of a day, at the times of the day's own."""
    columns = {name: column[rows] for name, column in day.columns.items()}
    return Day(day.offsets_ms, columns, day.labels[rows], day.weekday)


def _drawn_again(rng: np.random.Generator, day: Day, logs: Values) -> Day:
    """Draw rows by their weights, each as often as it is due or once more (systematic resampling).

    A draw with replacement would give every planted day twice the noise of a day that is not planted, and
    that could be found instead of the shift.
    """
    size, weights = len(logs), np.exp(logs - logs.max())
    due = np.cumsum(weights / weights.sum()) * size
    return _rows(day, np.minimum(np.searchsorted(due, np.arange(size) + rng.random()), size - 1))


def _tilted(name: str, stream: Days, sign: float) -> Callable[[float], Planted]:
    mean, deviation, _ = stream.model.numbers[name]

    def at(strength: float) -> Planted:
        def change(rng: np.random.Generator, day: Day) -> Day:
            away = np.nan_to_num((day.columns[name].astype(float) - mean) / deviation)
            return _drawn_again(rng, day, strength * sign * np.clip(away, -3.0, 3.0))

        return change

    return at


def _harder(model: Model) -> Callable[[float], Planted]:
    """Draw rows of which the model is less sure, or expects more."""

    def at(strength: float) -> Planted:
        def change(rng: np.random.Generator, day: Day) -> Day:
            scores = model.scores(day.columns)
            hard = scores * (1.0 - scores) * 4.0 if model.task == "binary" else scores / model.label_deviation
            return _drawn_again(rng, day, strength * hard)

        return change

    return at


def _prior(strength: float) -> Planted:
    def change(rng: np.random.Generator, day: Day) -> Day:
        spread = float(day.labels.std()) or 1.0
        labels = day.labels if day.labels.max() <= 1.0 else day.labels / spread
        return _drawn_again(rng, day, strength * np.minimum(labels, 5.0))

    return change


def _turned(model: Model) -> Callable[[float], Planted]:
    """Change labels of rows drawn by chance: a class becomes the other, a number grows."""

    def at(strength: float) -> Planted:
        share = strength / STRENGTH_MAX

        def change(rng: np.random.Generator, day: Day) -> Day:
            if model.task == "binary":
                labels = np.where(rng.random(len(day.labels)) < share / 2, 1.0 - day.labels, day.labels)
            else:
                labels = day.labels * (1.0 + share)
            return day._replace(labels=labels)

        return change

    return at


def _half(stream: Days) -> Callable[[float], Planted]:
    """Change the labels of rows on one side of a feature that the model looks at."""
    name = max(stream.model.numbers, key=lambda one: abs(stream.model.numbers[one][2]))
    mean = stream.model.numbers[name][0]
    turned = _turned(stream.model)

    def at(strength: float) -> Planted:
        change_all = turned(2.0 * strength)

        def change(rng: np.random.Generator, day: Day) -> Day:
            changed = change_all(rng, day)
            inside = np.nan_to_num(day.columns[name].astype(float), nan=mean) > mean
            return day._replace(labels=np.where(inside, changed.labels, day.labels))

        return change

    return at


# -- faults -------------------------------------------------------------------------------------------


def _faults(stream: Days) -> Sequence[Plant]:
    name = max(stream.model.numbers, key=lambda one: abs(stream.model.numbers[one][2]))
    mean = stream.model.numbers[name][0]

    def on(column: str, change: Callable[[np.random.Generator, Any], Any]) -> Planted:
        def changed(rng: np.random.Generator, day: Day) -> Day:
            return day._replace(columns={**day.columns, column: change(rng, day.columns[column])})

        return changed

    def missing(rng: np.random.Generator, column: Any) -> Any:
        return np.where(rng.random(len(column)) < 0.3, np.nan, column.astype(float))

    made: dict[str, Planted] = {
        f"{name}: 30 % missing": on(name, missing),
        f"{name}: constant": on(name, lambda _, column: np.full(len(column), mean)),
        f"{name}: another unit": on(name, lambda _, column: column.astype(float) * 1000.0),
    }
    for text in list(stream.model.texts)[:1]:
        made[f"{text}: another spelling"] = on(text, lambda _, column: np.char.lower(column.astype(str)))
    faults = [Plant(one, "pipeline_fault", change, _rise(stream, change)) for one, change in made.items()]
    return [*faults, Plant("5 % refused", "pipeline_fault", lambda _, day: day, 0.0, refused=0.05)]
