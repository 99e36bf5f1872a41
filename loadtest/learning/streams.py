"""The streams: rows of real data as events and labels, and the pipeline that races on them.

Lives here: which file, which fields, when a label becomes known, which models.  Never here: running it.

Everywhere the same three candidates race, with defaults throughout: a Hoeffding tree, a linear model and a
Hoeffding adaptive tree, the tree first.  A label is known as its stream says, and never earlier.
"""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from river import base, datasets, linear_model, multiclass, optim, preprocessing, tree

from engine import Labels, Pipeline, Promotion, Topic
from operators import field
from topics.codec import encode_json
from topics.errors import SettingsError

__all__ = ["STREAMS", "Stream"]

LINEAR_RATE = 0.005
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
START_MS = 831_859_200_000
"""Where a stream without times of its own begins; only differences matter."""
ELEC2_ROW_MS = HOUR_MS // 2
ELEC2_DAY_ROWS = 48
SEA_ROW_MS = RIVER_ROW_MS = 60_000
BIKES_LAGS = (1, 24, 168)
"""Hours back at which the demand is a feature: an hour, a day, a week; all known when the hour begins."""
BIKES_FIELDS = ("hr", "workingday", "weathersit", "temp", "hum", "windspeed")
WAIT = "3650d"
_FLIGHTS = Path(__file__).parents[2] / "examples" / "flights"
_NO_NAME = re.compile(r"\W")
Row = tuple[int, dict[str, Any], Any, int]
"""Event time in ms, fields, label, label time in ms."""


class Stream(NamedTuple):
    """One stream: its pipeline, and its records by time of event and of label."""

    name: str
    title: str
    """As the page names it."""
    pipeline: Callable[[], Pipeline]
    records: Callable[[Path], tuple[Iterable[bytes], Iterable[bytes]]]
    """Folder of data sets -> (lines of events, lines of labels)."""


def _classifiers() -> dict[str, base.Estimator]:
    return {
        "tree": tree.HoeffdingTreeClassifier(),
        "linear": preprocessing.StandardScaler()
        | linear_model.LogisticRegression(optimizer=optim.SGD(LINEAR_RATE)),
        "adaptive": tree.HoeffdingAdaptiveTreeClassifier(seed=42),
    }


def _of_several_classes() -> dict[str, base.Estimator]:
    models = _classifiers()
    scaler, linear = preprocessing.StandardScaler(), linear_model.LogisticRegression(optim.SGD(LINEAR_RATE))
    return models | {"linear": scaler | multiclass.OneVsRestClassifier(linear)}


def _regressors() -> dict[str, base.Estimator]:
    return {
        "tree": tree.HoeffdingTreeRegressor(),
        "linear": preprocessing.StandardScaler() | linear_model.LinearRegression(),
        "adaptive": tree.HoeffdingAdaptiveTreeRegressor(seed=42),
    }


def race_of(
    name: str, fields: Sequence[str], models: Mapping[str, Any], **options: Any
) -> Callable[[], Pipeline]:
    """Return a function that makes the pipeline of numeric fields as they are, labels on a topic."""

    def make() -> Pipeline:
        event = msgspec.defstruct(
            "Row",
            [("event_id", str), ("event_time", int), ("key", str), *((one, float) for one in fields)],
        )
        return Pipeline(
            name=name,
            events=Topic(f"{name}.events", event, key="key"),
            labels=Labels(f"{name}.labels", wait=WAIT),
            features={one: field(one) for one in fields},
            models=models,
            **options,
        )

    return make


def lines_of_rows(rows: Iterable[Row]) -> tuple[list[bytes], list[bytes]]:
    """Return the lines of events and of labels of some rows; labels by their times."""
    events, labels = [], []
    for number, (event_time, fields, label, label_time) in enumerate(rows):
        about = {"event_id": str(number), "key": "all"}
        events.append(encode_json({**about, "event_time": event_time, **fields}))
        labels.append((label_time, encode_json({**about, "label": label, "label_time": label_time})))
    labels.sort(key=lambda line: line[0])
    return events, [line for _, line in labels]


def _elec2(folder: Path, late_rows: int) -> Iterator[Row]:
    for number, row in enumerate(_table(folder / "elec2" / "electricity.csv")):
        time = START_MS + number * ELEC2_ROW_MS
        label = row.pop("class") == "UP"
        yield time, _numbers(row), label, time + (late_rows + 1) * ELEC2_ROW_MS


def _sea(folder: Path) -> Iterator[Row]:
    for number, row in enumerate(_table(folder / "sea" / "sea.csv")):
        time = START_MS + number * SEA_ROW_MS
        label = row.pop("class") == "1"
        yield time, _numbers(row), label, time + SEA_ROW_MS


def _weather(folder: Path) -> Iterator[Row]:
    for number, row in enumerate(_table(folder / "weather" / "weather.csv")):
        time = START_MS + number * DAY_MS
        label = row.pop("target") == "1"
        yield time, _numbers(row), label, time + DAY_MS


def _bikes(folder: Path) -> Iterator[Row]:
    rows = list(_table(folder / "bikes" / "hour.csv"))
    demand = [float(row["cnt"]) for row in rows]
    for number, row in enumerate(rows):
        day = datetime.strptime(row["dteday"], "%m/%d/%Y").replace(tzinfo=UTC)
        time = int((day + timedelta(hours=int(row["hr"]))).timestamp() * 1_000)
        fields = {name: float(row[name]) for name in BIKES_FIELDS}
        fields |= {f"lag_{lag}": demand[number - lag] if number >= lag else 0.0 for lag in BIKES_LAGS}
        yield time, fields, demand[number], time + HOUR_MS


def _river(dataset: Callable[[], Iterable[Any]]) -> Iterator[Row]:
    """Yield the rows of a data set that River ships, one a minute, with the fields that are numbers."""
    for number, (x, label) in enumerate(dataset()):
        time = START_MS + number * RIVER_ROW_MS
        yield time, _fields_of(x), label, time + RIVER_ROW_MS


def _fields_of(x: Mapping[str, Any]) -> dict[str, float]:
    return {
        "x_" + _NO_NAME.sub("_", name): float(value)
        for name, value in x.items()
        if isinstance(value, int | float)
    }


def _shipped(
    name: str, dataset: Callable[[], Iterable[Any]], models: Mapping[str, Any], **options: Any
) -> Stream:
    """Return a stream of a data set that River ships, label after the row."""
    first = next(iter(dataset()))[0]
    race = race_of(name, list(_fields_of(first)), models, **options)
    return Stream(name, f"{name} (ships with River)", race, lambda _: lines_of_rows(_river(dataset)))


def _flights(_: Path) -> tuple[Iterable[bytes], Iterable[bytes]]:
    with (
        gzip.open(_FLIGHTS / "departures.jsonl.gz") as events,
        gzip.open(_FLIGHTS / "arrivals.jsonl.gz") as labels,
    ):
        return events.read().splitlines(), labels.read().splitlines()


def _flights_race() -> Pipeline:
    """Return the README's pipeline with the defaults of a race, as on the other streams."""
    from engine.definition.file import load_pipeline  # noqa: PLC0415 - it runs a user's file

    pipeline = load_pipeline(_FLIGHTS / "pipeline.py")
    return replace(pipeline, champion=None, drift=(), promotion=Promotion())


def _table(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a file.  Raises SettingsError where it is missing."""
    if not path.is_file():
        raise SettingsError(
            f"there is no file {path}", hint="give the folder of the data sets: --data DIR or HEADRACE_DATA"
        )
    with path.open() as file:
        yield from csv.DictReader(file)


def _numbers(row: Mapping[str, str]) -> dict[str, float]:
    return {name: float(value) for name, value in row.items()}


_ELEC2 = ("date", "day", "period", "nswprice", "nswdemand", "vicprice", "vicdemand", "transfer")
STREAMS: tuple[Stream, ...] = (
    Stream(
        "elec2",
        "elec2, label after the row",
        race_of("elec2", _ELEC2, _classifiers()),
        lambda folder: lines_of_rows(_elec2(folder, 0)),
    ),
    Stream(
        "elec2-late",
        "elec2, labels 48 rows late",
        race_of("elec2", _ELEC2, _classifiers()),
        lambda folder: lines_of_rows(_elec2(folder, ELEC2_DAY_ROWS)),
    ),
    Stream(
        "sea",
        "sea",
        race_of("sea", ("x0", "x1", "x2"), _classifiers()),
        lambda folder: lines_of_rows(_sea(folder)),
    ),
    Stream(
        "weather",
        "weather",
        race_of("weather", [f"feat_{number}" for number in range(1, 9)], _classifiers()),
        lambda folder: lines_of_rows(_weather(folder)),
    ),
    Stream(
        "bikes",
        "bikes, labels 1 h late",
        race_of("bikes", [*BIKES_FIELDS, *(f"lag_{lag}" for lag in BIKES_LAGS)], _regressors()),
        lambda folder: lines_of_rows(_bikes(folder)),
    ),
    Stream("flights", "flights, labels at landing", _flights_race, _flights),
    _shipped("phishing", datasets.Phishing, _classifiers()),
    _shipped("bananas", datasets.Bananas, _classifiers()),
    _shipped("segments", datasets.ImageSegments, _of_several_classes(), task="multiclass"),
    _shipped("approval", datasets.TrumpApproval, _regressors()),
)
