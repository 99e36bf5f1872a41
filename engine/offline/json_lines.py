"""Files of JSON lines, as lines and as records.

Lives here: reading a file, plain or packed.  Never here: what a line means.
"""

from __future__ import annotations

import gzip
import itertools
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from topics.errors import SettingsError
from topics.messages import Record

__all__ = ["lines_of", "read_lines"]

LINES_MAX = 1_000
"""Lines read at once."""


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
    """Yield the lines of a JSON-lines file as records, in chunks of at most LINES_MAX; see `lines_of`."""
    records = (Record(topic, 0, number, None, None, line) for number, line in lines_of(path, on_read))
    while chunk := list(itertools.islice(records, LINES_MAX)):
        yield chunk
