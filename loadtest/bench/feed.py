"""Events and labels for a load: copies of given events, or made up from the user's type.

Lives here: what the events and labels of a run look like.  Never here: when they are sent
(`openloop.py`).

Strategy: a row is an event as plain JSON values.  The feed walks the rows round and round and
gives each copy an id of its own run and the time it is due, so that one file serves any rate
and any length, and nothing is a duplicate or out of time.  Made-up rows are drawn from the
fields of the msgspec type: few keys, half of the numbers lognormal, seeded.  Labels are always made up, one
for each row: the same event has the same label again, so that there is something to learn.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
import orjson
from msgspec import inspect

from engine.definition.streams import Labels, Topic
from topics.errors import SettingsError
from topics.messages import LabelValue, Task

__all__ = ["ROWS_MAX", "Feed", "FeedEvent", "LabelFeed", "made_up_rows", "parsed_rows"]

ROWS_MAX = 200_000
"""Rows kept in memory; a longer file is cut, for the feed walks them round and round."""
KEYS = 1_000
"""Distinct keys of made-up events."""
WORDS = 20
"""Distinct values of other made-up text fields."""
INT_SPAN = 1_000
"""Made-up whole numbers lie in 0..999 unless the type bounds them."""
CLASSES = ("a", "b", "c")
"""Labels of a made-up multiclass task."""
TRUE_SHARE = 0.3
"""Of made-up binary labels."""


class FeedEvent(NamedTuple):
    """One event ready to be sent."""

    event_id: str
    key: bytes
    value: bytes


class Feed:
    """The events of one run, by number; those that `is_hot` names have the key of the first row.

    `run` makes ids unique among runs.  Raises SettingsError where a row is no valid event of the
    topic's type.
    """

    def __init__(
        self,
        topic: Topic,
        rows: Sequence[dict[str, Any]],
        run: str,
        is_hot: Callable[[int], bool] = lambda _: False,
    ) -> None:
        if not rows:
            raise SettingsError("there is no event to send", hint="give a file with at least one event")
        self._rows = rows
        self._run, self._is_hot = run, is_hot
        names = {entry.name: entry.encode_name for entry in msgspec.structs.fields(topic.type)}
        self._id, self._time, self._key = names[topic.id], names[topic.time], names[topic.key]
        self._time_as = _time_form(topic)
        for number in range(min(len(rows), 100)):
            try:
                msgspec.json.decode(self.event(number, 0).value, type=topic.type)
            except (msgspec.MsgspecError, KeyError) as error:
                raise SettingsError(
                    f"row {number} is no {topic.type.__name__}: {error}",
                    hint="give events of the pipeline's type with --events FILE",
                ) from None

    @property
    def rows(self) -> int:
        """Return after how many events they repeat."""
        return len(self._rows)

    def event(self, number: int, event_time: int) -> FeedEvent:
        """Return the `number`-th event, due at `event_time` ms."""
        row = self._rows[number % len(self._rows)]
        key = (self._rows[0] if self._is_hot(number) else row)[self._key]
        event_id = f"{self._run}-{number}"
        value = orjson.dumps(
            {**row, self._key: key, self._id: event_id, self._time: self._time_as(event_time)}
        )
        return FeedEvent(event_id, str(key).encode(), value)


class LabelFeed:
    """The labels of a run's events, by number; `rows` is how many events there are before they repeat.

    Those that `is_drifted` names follow another truth.

    >>> feed = LabelFeed(Labels("pay.labels", wait="1h"), "regression", rows=2)
    >>> feed.label(0, "run-0", 5) == feed.label(2, "run-0", 5)
    True
    """

    def __init__(
        self,
        labels: Labels,
        task: Task,
        *,
        rows: int,
        seed: int = 0,
        is_drifted: Callable[[int], bool] = lambda _: False,
    ) -> None:
        rng = random.Random(seed)  # noqa: S311 - test data
        draw: dict[Task, Callable[[], LabelValue]] = {
            "binary": lambda: rng.random() < TRUE_SHARE,
            "multiclass": lambda: rng.choice(CLASSES),
            "regression": lambda: round(rng.lognormvariate(3.0, 1.0), 2),
        }
        self._values = [draw[task]() for _ in range(rows)]
        self._drifted = [draw[task]() for _ in range(rows)]
        self._is_drifted = is_drifted
        self._names = (labels.id, labels.label, labels.time)

    def label(self, number: int, event_id: str, label_time: int) -> bytes:
        """Return the message with the label of the `number`-th event, known from `label_time` ms on."""
        values = self._drifted if self._is_drifted(number) else self._values
        value = values[number % len(values)]
        return orjson.dumps(dict(zip(self._names, (event_id, value, label_time), strict=True)))


def parsed_rows(lines: Iterable[bytes]) -> list[dict[str, Any]]:
    """Return the events of JSON lines, at most ROWS_MAX.  Raises SettingsError for what is no object."""
    rows = []
    for number, line in enumerate(itertools.islice(lines, ROWS_MAX)):
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise SettingsError(f"event {number} is no JSON: {error}", hint="one object per line") from None
        if not isinstance(row, dict):
            raise SettingsError(f"event {number} is no JSON object", hint="one object per line")
        rows.append(row)
    return rows


def made_up_rows(topic: Topic, *, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return `count` rows drawn from the fields of the topic's type.

    Raises SettingsError for a field of a type that cannot be made up.
    """
    rng = random.Random(seed)  # noqa: S311 - test data
    given = {topic.id: lambda: "", topic.time: lambda: 0}
    makers: dict[str, Callable[[], Any]] = {}
    info = inspect.type_info(topic.type)
    if not isinstance(info, inspect.StructType):
        raise TypeError(f"{topic.type} is no struct")
    for entry in info.fields:
        span = KEYS if entry.name == topic.key else WORDS
        maker = given.get(entry.name) or _maker(entry.type, entry.encode_name, span, rng)
        if maker is not None:
            makers[entry.encode_name] = maker
        elif entry.required:
            raise SettingsError(
                f"no value can be made up for the field `{entry.name}`", hint="give events with --events FILE"
            )
    return [{name: maker() for name, maker in makers.items()} for _ in range(count)]


def _maker(declared: inspect.Type, name: str, span: int, rng: random.Random) -> Callable[[], Any] | None:
    """Return what draws one value of a type, or None where nothing here can."""
    match declared:
        case inspect.BoolType():
            return lambda: rng.random() < 0.5
        case inspect.IntType(gt=None, ge=low, lt=None, le=high):
            bottom = low if low is not None else 0 if high is None else high - INT_SPAN
            top = high if high is not None else bottom + INT_SPAN
            return lambda: rng.randint(bottom, top)
        case inspect.FloatType(gt=None, ge=None, lt=None, le=None):
            return lambda: round(rng.lognormvariate(3.0, 1.0), 2)
        case inspect.StrType(min_length=None, max_length=None, pattern=None):
            return lambda: f"{name}-{rng.randrange(span)}"
        case inspect.LiteralType(values=values):
            return lambda: rng.choice(values)
        case inspect.UnionType(types=types):
            makers = (_maker(member, name, span, rng) for member in types)
            return next((maker for maker in makers if maker is not None), None)
    return None


def _time_form(topic: Topic) -> Callable[[int], int | str]:
    """Return how the type wants its times: integer milliseconds or RFC 3339 text."""
    types = {entry.name: entry.type for entry in msgspec.structs.fields(topic.type)}
    if types.get(topic.time) is int:
        return int
    return lambda time_ms: datetime.fromtimestamp(time_ms / 1_000, UTC).isoformat(timespec="milliseconds")
