"""The rows of a sample: a CSV file or JSON lines, plain or packed.

Lives here: which of the two a file is, its separator, its columns, its rows up to a limit.  Never here: what
the values mean (`columns.py`).
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from engine.offline.json_lines import json_object
from topics.errors import SettingsError

__all__ = ["SAMPLE_ROWS_MAX", "SampleRows", "read_rows"]

SAMPLE_ROWS_MAX = 20_000
"""Rows that are looked at and copied: a guess gets no better by more, and a project stays small."""
COLUMNS_MAX = 500
"""A file of more columns is no table of events."""
SEPARATORS = ",;\t|"
BYTES_MAX = 64 * 1024 * 1024
"""Text of a file that is read: rows of more than 3 KB each would go beyond it."""


class SampleRows(NamedTuple):
    """The first rows of a file."""

    names: tuple[str, ...]
    """Columns, in their order."""
    rows: tuple[dict[str, Any], ...]
    """Values by column, text of a CSV file and JSON values elsewhere; what a row lacks is left out."""
    is_text: bool
    """Whether every value is text (CSV)."""
    malformed: int
    """Lines that are no row: no JSON object, or of another number of columns."""
    is_whole: bool
    """Whether the file ended before the limits."""


def read_rows(path: Path) -> SampleRows:
    """Return the first SAMPLE_ROWS_MAX rows of a file.

    A file whose first line begins with `{` is JSON lines, any other is CSV with a header.  Raises
    SettingsError where it cannot be read, has no rows, or has no header.
    """
    try:
        with path.open("rb") as file, gzip.open(file) if path.suffix == ".gz" else file as source:
            data = source.read(BYTES_MAX + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise SettingsError(
            f"cannot read {path}: {getattr(error, 'strerror', None) or error}",
            hint="give the path of a CSV or JSON-lines file, plain or .gz",
        ) from None
    cut = len(data) > BYTES_MAX
    try:
        text = (data[: data.rindex(b"\n")] if cut else data).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"{path} is no UTF-8 text: byte {error.start}", hint="convert it: iconv -f latin1 -t utf-8 FILE"
        ) from None
    is_json = text.lstrip().startswith("{")
    found = _json_rows(text) if is_json else _csv_rows(text, path)
    rows: list[dict[str, Any]] = []
    malformed = 0
    for row in islice(found, SAMPLE_ROWS_MAX):
        if row is None:
            malformed += 1
        else:
            rows.append(row)
    names = tuple(dict.fromkeys(name for row in rows for name in row))
    if not names:
        raise SettingsError(f"{path} has no rows", hint="give a CSV file with a header, or JSON lines")
    if len(names) > COLUMNS_MAX:
        raise SettingsError(
            f"{path} has {len(names)} columns, more than {COLUMNS_MAX}", hint="leave out what no model needs"
        )
    return SampleRows(names, tuple(rows), not is_json, malformed, not cut and next(found, ...) is ...)


def _json_rows(text: str) -> Iterator[dict[str, Any] | None]:
    """Yield the object of each line that is not empty, None for one that is none."""
    for line in text.splitlines():
        if line.strip():
            yield json_object(line.encode())


def _csv_rows(text: str, path: Path) -> Iterator[dict[str, Any] | None]:
    """Yield the values of each line by column, None for a line of another number of columns."""
    head = text.partition("\n")[0]
    separator = max(SEPARATORS, key=head.count)
    lines: Iterable[list[str]] = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    lines = iter(lines)
    try:
        names = [name.strip() for name in next(lines, [])]
        if len(set(names)) < len(names) or not all(names):
            raise SettingsError(
                f"{path} has no header that names each column once: {head[:80]!r}",
                hint="write the columns' names into the first line",
            )
        for values in lines:
            if values:
                yield dict(zip(names, values, strict=True)) if len(values) == len(names) else None
    except csv.Error as error:
        raise SettingsError(f"{path} is no CSV file: {error}", hint="check its quotes") from None
