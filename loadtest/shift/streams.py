"""The streams: days of real rows to draw from, days that are made up, and a model that answers them.

Lives here: which file, which columns, which label delay; the frozen linear model.  Never here: runs.

A stream stands still if its days are drawn anew: each day of a run is a day of the data, of the same day of
the week where the stream has one, with all its rows in their order.  So seasons, bursts and the likeness of
rows within a day stay, and nothing else changes.  Where a day has few rows, a week (bikes) or a year
(weather) of the data is played as one day.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from river import linear_model, optim

from topics.errors import SettingsError
from topics.messages import Task

__all__ = [
    "DAY_MS",
    "SOURCES",
    "Day",
    "DayColumns",
    "Days",
    "Model",
    "Stationary",
    "load_days",
    "made_up",
    "still",
]

Values = NDArray[np.float64]
DayColumns = Mapping[str, NDArray[Any]]
"""Numbers (NaN: missing) or texts, by name."""

DAY_MS: Final = 86_400_000
TRAINING_DAYS: Final = 28
TRAINING_ROWS: Final = 15_000
LESSONS: Final = 2
RATE: Final = 0.02
FRAUD_ONE_IN: Final = 4
ERROR_UNIT: Final = 4.0
"""As in the product: an error of so many deviations is a loss of 1."""


class Day(NamedTuple):
    """Rows of one day, in order."""

    offsets_ms: NDArray[np.int64]
    columns: DayColumns
    labels: Values
    weekday: int


class Model(NamedTuple):
    """A linear model that was trained once by River and answers whole columns."""

    task: Task
    numbers: dict[str, tuple[float, float, float]]
    """By numeric column: mean, deviation, weight."""
    texts: dict[str, dict[str, float]]
    """By text column: weight of each text."""
    intercept: float
    label_deviation: float

    def scores(self, columns: DayColumns) -> Values:
        """Return the answer to each row; what is missing or unknown counts for nothing."""
        total = np.full(len(next(iter(columns.values()))), self.intercept)
        for name, (mean, deviation, weight) in self.numbers.items():
            total += weight * np.nan_to_num((columns[name].astype(float) - mean) / deviation)
        for name, weights in self.texts.items():
            found, places = np.unique(columns[name].astype(str), return_inverse=True)
            total += np.array([weights.get(text, 0.0) for text in found])[places]
        if self.task == "regression":
            return np.asarray(total)
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(total, -30.0, 30.0))))

    def losses(self, labels: Values, scores: Values) -> Values:
        """Return the product's loss of each answer."""
        if self.task == "regression":
            return np.asarray(np.abs(labels - scores) / (ERROR_UNIT * self.label_deviation))
        return np.asarray((labels - scores) ** 2)


class Days(NamedTuple):
    """Days to draw from."""

    name: str
    title: str
    days: Sequence[Day]
    model: Model
    delay_ms: int
    weekly: bool
    """Whether days are drawn by their day of the week."""


Stationary = Callable[[np.random.Generator, int], Day]
"""(generator, number of the day) -> the day."""


def still(stream: Days) -> Stationary:
    """Return a stream that stands still: each day is drawn from the data's."""
    by_weekday: dict[int, list[Day]] = {}
    for day in stream.days:
        by_weekday.setdefault(day.weekday if stream.weekly else 0, []).append(day)

    def draw(rng: np.random.Generator, number: int) -> Day:
        days = by_weekday[number % 7 if stream.weekly else 0]
        return days[int(rng.integers(len(days)))]

    return draw


def _trained(task: Task, days: Sequence[Day], texts: Sequence[str]) -> Model:
    """Return a linear model that River taught with the first days."""
    columns = {name: np.concatenate([day.columns[name] for day in days]) for name in days[0].columns}
    labels = np.concatenate([day.labels for day in days])
    spread = float(labels.std()) or 1.0
    numbers = {
        name: (float(np.nanmean(column)), float(np.nanstd(column)) or 1.0)
        for name, column in columns.items()
        if name not in texts
    }
    rows = np.random.default_rng(1).permutation(len(labels))[:TRAINING_ROWS]
    sgd = optim.SGD(RATE)
    model: Any = (
        linear_model.LogisticRegression(sgd) if task == "binary" else linear_model.LinearRegression(sgd)
    )
    for _ in range(LESSONS):
        for row in rows:
            x = {
                name: float((columns[name][row] - mean) / deviation)
                for name, (mean, deviation) in numbers.items()
                if not math.isnan(columns[name][row])
            }
            x |= {f"{name}={columns[name][row]}": 1.0 for name in texts}
            y = bool(labels[row]) if task == "binary" else labels[row] / spread
            model.learn_one(x, y)
    scale = 1.0 if task == "binary" else spread
    weights = {name: scale * weight for name, weight in model.weights.items()}
    return Model(
        task,
        {name: (*place, weights.get(name, 0.0)) for name, place in numbers.items()},
        {
            name: {
                one.removeprefix(f"{name}="): w for one, w in weights.items() if one.startswith(f"{name}=")
            }
            for name in texts
        },
        scale * float(model.intercept),
        spread,
    )


def _stream(
    name: str,
    title: str,
    task: Task,
    days: Sequence[Day],
    delay_ms: int,
    *,
    weekly: bool,
    texts: Sequence[str] = (),
) -> Days:
    return Days(name, title, days, _trained(task, days[:TRAINING_DAYS], texts), delay_ms, weekly)


def _days_of(frame: pl.DataFrame, times: str, label: str, columns: Sequence[str]) -> list[Day]:
    """Return the days of a table with a column of times."""
    days = []
    for _, rows in frame.with_columns(pl.col(times).dt.date().alias("_day")).group_by(
        "_day", maintain_order=True
    ):
        stamps = rows[times].dt.epoch("ms").to_numpy()
        first = int(stamps.min()) // DAY_MS * DAY_MS
        days.append(
            Day(
                (stamps - first).astype(np.int64),
                {name: rows[name].to_numpy() for name in columns},
                rows[label].to_numpy().astype(float),
                first // DAY_MS % 7,
            )
        )
    return days


def _flights(folder: Path) -> Days:
    frame = pl.read_csv(_file(folder / "nycflights" / "demo_q1.csv.gz"), try_parse_dates=True).with_columns(
        pl.col("sched_dep_ts").dt.hour().cast(pl.Float64).alias("hour"),
        pl.col("sched_dep_ts").dt.weekday().cast(pl.Float64).alias("weekday"),
        pl.col("distance").cast(pl.Float64),
    )
    texts = ("carrier", "origin", "dest")
    days = _days_of(frame, "sched_dep_ts", "delayed15", ("hour", "weekday", "distance", *texts))
    return _stream("flights", "flights (a day)", "binary", days, 3 * 3_600_000, weekly=True, texts=texts)


def _fraud(folder: Path) -> Days:
    frame = pl.read_parquet(_file(folder / "fraud_handbook" / "dev_apr_jul.parquet"))
    frame = frame.filter(pl.col("CUSTOMER_ID") % FRAUD_ONE_IN == 0).with_columns(
        pl.col("TX_AMOUNT").alias("amount"),
        pl.col("TX_AMOUNT").log1p().alias("log_amount"),
        (pl.col("TX_AMOUNT") > 200).cast(pl.Float64).alias("large"),
        pl.col("TX_DATETIME").dt.hour().cast(pl.Float64).alias("hour"),
        pl.col("TX_DATETIME").dt.weekday().cast(pl.Float64).alias("weekday"),
        (pl.col("TX_AMOUNT") / pl.col("TX_AMOUNT").mean().over("CUSTOMER_ID")).alias("of_usual"),
    )
    columns = ("amount", "log_amount", "large", "hour", "weekday", "of_usual")
    days = _days_of(frame, "TX_DATETIME", "TX_FRAUD", columns)
    return _stream("fraud", "fraud (a day, one customer in 4)", "binary", days, 7 * DAY_MS, weekly=True)


def _weather(folder: Path) -> Days:
    frame = pl.read_csv(_file(folder / "weather" / "weather.csv"))
    columns = [f"feat_{number}" for number in range(1, 9)]
    days = [
        Day(
            np.arange(365, dtype=np.int64) * (DAY_MS // 365),
            {name: rows[name].to_numpy().astype(float) for name in columns},
            rows["target"].to_numpy().astype(float),
            0,
        )
        for rows in frame.iter_slices(365)
        if len(rows) == 365
    ]
    return _stream("weather", "weather (a year as a day)", "binary", days, DAY_MS // 365, weekly=False)


def _bikes(folder: Path) -> Days:
    frame = pl.read_csv(_file(folder / "bikes" / "hour.csv")).with_columns(
        pl.col("cnt").shift(1).fill_null(0).cast(pl.Float64).alias("lag_1"),
        pl.col("cnt").shift(168).fill_null(0).cast(pl.Float64).alias("lag_168"),
        (2 * math.pi * pl.col("hr") / 24).sin().alias("sin_hour"),
        (2 * math.pi * pl.col("hr") / 24).cos().alias("cos_hour"),
    )
    columns = (
        "workingday",
        "weathersit",
        "temp",
        "hum",
        "windspeed",
        "lag_1",
        "lag_168",
        "sin_hour",
        "cos_hour",
    )
    days = [
        Day(
            np.arange(168, dtype=np.int64) * (DAY_MS // 168),
            {name: rows[name].to_numpy().astype(float) for name in columns},
            rows["cnt"].to_numpy().astype(float),
            0,
        )
        for rows in frame.iter_slices(168)
        if len(rows) == 168
    ]
    return _stream("bikes", "bikes (a week as a day)", "regression", days, DAY_MS // 168, weekly=False)


def _file(path: Path) -> Path:
    if not path.is_file():
        raise SettingsError(
            f"there is no file {path}", hint="give the folder of the data sets: --data DIR or HEADRACE_DATA"
        )
    return path


SOURCES: Mapping[str, Callable[[Path], Days]] = {
    "flights": _flights,
    "fraud": _fraud,
    "weather": _weather,
    "bikes": _bikes,
}


def load_days(name: str, folder: Path) -> Days:
    """Return a stream of the folder's data.  Raises SettingsError where the file is missing."""
    return SOURCES[name](folder)


# -- made up ------------------------------------------------------------------------------------------

ROWS: Final = 500
NUMBERS: Final = 6
_WEIGHTS: Final = np.array([0.9, -0.7, 0.5, 0.4, 0.0, 0.0])


def made_up(likeness: float, effect: float) -> tuple[Stationary, Model]:
    """Return a stream with daily and weekly seasons whose days resemble their neighbours.

    `likeness` is the correlation of the effects of neighbouring days, `effect` their size in deviations.
    """
    texts = np.array(["a", "b", "c", "d", "e"])
    memory: dict[str, Values] = {}

    def day(rng: np.random.Generator, number: int) -> Day:
        fresh = rng.standard_normal(NUMBERS + 1)
        before = memory.get("effects") if number else None
        effects = fresh if before is None else likeness * before + math.sqrt(1 - likeness**2) * fresh
        memory["effects"] = effects
        weekend = number % 7 >= 5
        offsets = np.sort(rng.integers(0, DAY_MS, int(ROWS * (0.7 if weekend else 1.0))))
        hour = offsets / (DAY_MS / 24)
        season = np.sin(2 * math.pi * hour / 24)
        x = rng.standard_normal((len(offsets), NUMBERS)) + effect * effects[:NUMBERS]
        x[:, 0] += 0.8 * season
        x[:, 1] += 0.5 * weekend
        text = texts[np.minimum(rng.geometric(0.5 - 0.1 * weekend, len(offsets)) - 1, 4)]
        logit = x @ _WEIGHTS - 1.0 + 0.5 * (text == "b") + 0.3 * season + effect * effects[-1]
        labels = (rng.random(len(offsets)) < 1.0 / (1.0 + np.exp(-logit))).astype(float)
        columns: dict[str, NDArray[Any]] = {f"x{one}": x[:, one] for one in range(NUMBERS)}
        return Day(offsets, {**columns, "hour": hour, "text": text}, labels, number % 7)

    numbers = {f"x{one}": (0.0, 1.0, float(weight)) for one, weight in enumerate(_WEIGHTS)}
    return day, Model("binary", {**numbers, "hour": (12.0, 7.0, 0.0)}, {"text": {"b": 0.5}}, -1.0, 1.0)
