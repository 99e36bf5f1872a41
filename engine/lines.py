"""Files of JSON lines as records.

Lives here: reading a file in chunks, plain or packed.  Never here: what a line means.
"""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Iterator
from pathlib import Path

from topics.errors import SettingsError
from topics.messages import Record

__all__ = ["read_lines"]

LINES_MAX = 1_000
"""Lines read at once."""


def read_lines(path: Path, topic: str) -> Iterator[list[Record]]:
    """Yield the lines of a JSON-lines file (plain or .gz) as records, in chunks of at most LINES_MAX.

    Empty lines count as lines, not as records.  Raises SettingsError if the file cannot be opened.
    """
    open_lines = gzip.open if path.suffix == ".gz" else open
    try:
        with open_lines(path, "rb") as source:
            numbered = ((offset, line.strip()) for offset, line in enumerate(source))
            records = (Record(topic, 0, offset, None, None, line) for offset, line in numbered if line)
            while chunk := list(itertools.islice(records, LINES_MAX)):
                yield chunk
    except OSError as error:
        raise SettingsError(
            f"cannot read {path}: {error.strerror or error}",
            hint="give the path of a JSON-lines file, plain or .gz",
        ) from None
