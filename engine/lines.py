"""Files of JSON lines, as lines and as records.

Lives here: reading a file, plain or packed.  Never here: what a line means.
"""

from __future__ import annotations

import gzip
import itertools
import zlib
from collections.abc import Iterator
from pathlib import Path

from topics.errors import SettingsError
from topics.messages import Record

__all__ = ["lines_of", "read_lines"]

LINES_MAX = 1_000
"""Lines read at once."""


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (number, line) of a file, plain or .gz, without empty lines, which are numbered too.

    Raises SettingsError if the file cannot be read.
    """
    open_lines = gzip.open if path.suffix == ".gz" else open
    try:
        with open_lines(path, "rb") as source:
            for number, line in enumerate(source):
                if stripped := line.strip():
                    yield number, stripped
    except (OSError, EOFError, zlib.error) as error:
        raise SettingsError(
            f"cannot read {path}: {getattr(error, 'strerror', None) or error}",
            hint="give the path of a JSON-lines file, plain or .gz",
        ) from None


def read_lines(path: Path, topic: str) -> Iterator[list[Record]]:
    """Yield the lines of a JSON-lines file as records, in chunks of at most LINES_MAX; see `lines_of`."""
    records = (Record(topic, 0, number, None, None, line) for number, line in lines_of(path))
    while chunk := list(itertools.islice(records, LINES_MAX)):
        yield chunk
