"""A user's files of JSON lines: as lines, as records, as rows of static features, and how they begin.

Lives here: reading a file, plain or packed, and opening one that is written; ids, times, labels and missing
fields of its first lines, whatever they should have been.  Never here: what that means (`diagnosis.py`),
which lines are valid (`topics/codec.py`).

First lines are read again, and only of a run that failed: a good run pays nothing for it.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec
import orjson

from topics.codec import SECONDS_LOOK, time_ms
from topics.errors import SettingsError
from topics.messages import Record
from topics.stored_features import StaticRow, decode_static_row

__all__ = [
    "HEAD_LINES_MAX",
    "FirstLines",
    "Names",
    "delays_ms",
    "head_of",
    "json_object",
    "lines_of",
    "read_lines",
    "read_static",
    "writing",
]

LINES_MAX = 1_000
"""Lines read at once."""
HEAD_LINES_MAX = 20_000
"""Lines of each file that are looked at: a second or so, and labels a day late are still among them."""
SHOWN_MAX = 60
"""Characters of a line or a value that are shown."""


def lines_of(path: Path, on_read: Callable[[int], object] | None = None) -> Iterator[tuple[int, bytes]]:
    """Yield (number, line) of a file, plain or .gz, without empty lines, which are numbered too.

    `on_read` is told now and then how many bytes of the file, packed as they are, have been read.
    Raises SettingsError if the file cannot be read.
    """
    try:
        with path.open("rb") as file, gzip.open(file) if path.suffix == ".gz" else file as source:
            for number, line in enumerate(source):
                if on_read is not None and number % LINES_MAX == 0:
                    on_read(file.tell())
                if stripped := line.strip():
                    yield number, stripped
            if on_read is not None:
                on_read(file.tell())
    except (OSError, EOFError, zlib.error) as error:
        raise SettingsError(
            f"cannot read {path}: {getattr(error, 'strerror', None) or error}",
            hint="give the path of a JSON-lines file, plain or .gz",
        ) from None


def read_lines(
    path: Path, topic: str, on_read: Callable[[int], object] | None = None
) -> Iterator[list[Record]]:
    """Yield the lines of a JSON-lines file as records, in lists of at most LINES_MAX; see `lines_of`."""
    records = (Record(topic, 0, number, None, None, line) for number, line in lines_of(path, on_read))
    while chunk := list(itertools.islice(records, LINES_MAX)):
        yield chunk


def read_static(path: Path) -> Iterator[StaticRow]:
    """Yield the rows of a file, one JSON object a line, plain or .gz.

    Raises SettingsError naming the line for one that is no row, and if the file cannot be read.
    """
    for records in read_lines(path, ""):
        for record in records:
            try:
                yield decode_static_row(record.value or b"")
            except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
                raise SettingsError(
                    f"{path}, line {record.offset + 1}: {error}",
                    hint='write {"key": "merchant:7", "time": 1735689600000, "fields": {"risk": 0.2}}; '
                    '"time": 0 is for what has always held',
                ) from None


class Names(NamedTuple):
    """Which fields an input must have."""

    id: str
    time: str
    label: str | None = None
    required: frozenset[str] = frozenset()
    """All fields that have no default."""


@dataclass
class FirstLines:
    """The first lines of one input."""

    lines: int = 0
    objects: int = 0
    """Lines that are JSON objects."""
    first: str = ""
    """The beginning of the first line."""
    times: dict[str, int] = field(default_factory=dict)
    """Time by id, ms, where both can be read."""
    ids: dict[str, None] = field(default_factory=dict)
    """All ids, in order."""
    seconds: int = 0
    """Times that are numbers of seconds."""
    backwards: int = 0
    """Times below the largest before them."""
    labels: Counter[str] = field(default_factory=Counter)
    """Labels by form: `text`, `bool`, `zero or one`, `whole number`, `number`, `other`."""
    label: str = ""
    """One label, as JSON."""
    missing: Counter[str] = field(default_factory=Counter)
    """Required fields that lines lack."""
    fields: tuple[str, ...] = ()
    """The fields of the first object."""


def head_of(lines: Iterable[bytes], names: Names) -> FirstLines:
    """Return what the first lines of an input hold.

    >>> lines = [b'{"event_id": "a", "label_time": 1700000000, "label": "smurf"}', b"a,1"]
    >>> head = head_of(lines, Names("event_id", "label_time", "label"))
    >>> head.lines, head.objects, head.seconds, head.labels
    (2, 1, 1, Counter({'text': 1}))
    """
    head = FirstLines()
    newest = -1
    for line in lines:
        head.lines += 1
        head.first = head.first or line[:SHOWN_MAX].decode(errors="replace")
        row = json_object(line)
        if row is None:
            continue
        head.objects += 1
        head.fields = head.fields or tuple(map(str, row))
        head.missing.update(name for name in names.required if name not in row)
        event_id: Any = row.get(names.id)
        time: Any = row.get(names.time)
        is_number = isinstance(time, int | float) and not isinstance(time, bool)
        head.seconds += is_number and SECONDS_LOOK // 100 < time < SECONDS_LOOK
        at = _time(time)
        if isinstance(event_id, str | int):
            head.ids.setdefault(str(event_id))
            if at is not None:
                head.times.setdefault(str(event_id), at)
        if at is not None:
            head.backwards += at < newest
            newest = max(newest, at)
        if names.label is not None and (label := row.get(names.label)) is not None:
            head.labels[_label_form(label)] += 1
            head.label = head.label or orjson.dumps(label).decode()[:SHOWN_MAX]
        if head.lines >= HEAD_LINES_MAX:
            break
    return head


def json_object(line: bytes) -> dict[str, Any] | None:
    """Return the fields of a line, or None where it is no JSON object."""
    try:
        row = orjson.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _time(value: Any) -> int | None:
    try:
        return time_ms(value)
    except (ValueError, OverflowError, TypeError):
        return None


def _label_form(label: object) -> str:
    match label:
        case bool():
            return "bool"
        case 0 | 1:
            return "zero or one"
        case int():
            return "whole number"
        case float():
            return "number"
        case str():
            return "text"
    return "other"


def delays_ms(events: FirstLines, labels: FirstLines) -> Sequence[int]:
    """Return label time minus event time of all labels whose event is known, smallest first."""
    times = events.times
    return sorted(at - times[event_id] for event_id, at in labels.times.items() if event_id in times)


@contextlib.contextmanager
def writing(path: Path | None) -> Iterator[IO[bytes] | None]:
    """Open a file that is written, for the block; None gives none.  Raises SettingsError where that fails."""
    if path is None:
        yield None
        return
    try:
        with path.open("wb") as out:
            yield out
    except OSError as error:
        raise SettingsError(f"cannot write {path}: {error.strerror}", hint="check the folder") from None
