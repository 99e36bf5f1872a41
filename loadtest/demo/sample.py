"""The demo's sample: the two files of the flights example, in the order in which `headrace send` sends them.

Lives here: where the example lies, cutting it to a number of flights.  Never here: the order itself
(`engine/offline/publish.py`), publishing (`race.py`).
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import NamedTuple

import msgspec

from engine.definition.pipeline import Pipeline
from engine.offline.publish import FileLine, PipelineFiles, merged
from topics.catalog import Catalog
from topics.errors import SettingsError

__all__ = ["CATALOG", "EXAMPLE_FOLDER", "Sample", "read_sample"]

_HOME = Path(__file__).parents[2]
_PACKED = _HOME / "headrace" / "examples" / "flights"
EXAMPLE_FOLDER = _PACKED if _PACKED.is_dir() else _HOME / "examples" / "flights"
"""A wheel carries it inside `headrace`; a checkout has it once, among the examples."""
CATALOG = Catalog("flights", events="flights.departures", labels="flights.arrivals")
"""The names that its pipeline gives its topics: known before it is loaded."""


class Sample(NamedTuple):
    """The example's records in the order in which they happen."""

    lines: list[FileLine]
    events: int
    truth: dict[str, bool]
    """Label by event id."""
    times: dict[str, int]
    """Time by event id."""


class _Arrival(msgspec.Struct):
    label: bool


def read_sample(pipeline: Pipeline, example: Path, events_max: int | None = None) -> Sample:
    """Return the first `events_max` flights with their labels, in time order, labels first on ties.

    Raises SettingsError where the sample is missing.
    """
    departures, arrivals = example / "departures.jsonl.gz", example / "arrivals.jsonl.gz"
    if missing := [path for path in (departures, arrivals) if not path.exists()]:
        raise SettingsError(
            f"the demo's sample {missing[0]} is missing",
            hint="install headrace anew, or make the sample with examples/flights/make_sample.py",
        )
    files = PipelineFiles(pipeline)
    events = list(itertools.islice(files.events(departures), events_max))
    times = {line.event_id: line.time_ms for line in events}
    labels = [line for line in files.labels(arrivals) if line.event_id in times]
    decode = msgspec.json.Decoder(_Arrival).decode
    truth = {line.event_id: decode(line.value).label for line in labels}
    return Sample(list(files.keyed(merged(events, labels))), len(events), truth, times)
