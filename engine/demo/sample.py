"""The demo's sample: two files of the flights example, merged into one order.

Lives here: reading, cutting, merging.  Never here: publishing (`command.py`), the pipeline.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from topics.errors import SettingsError

__all__ = ["EXAMPLE", "Publication", "Sample", "read_sample"]

_HOME = Path(__file__).parents[2]
_PACKED = _HOME / "headrace" / "examples" / "flights"
EXAMPLE = _PACKED if _PACKED.is_dir() else _HOME / "examples" / "flights"
"""A wheel carries it inside `headrace`; a checkout has it once, among the examples."""


class Publication(NamedTuple):
    """One record to publish: an event at its time, or a label at its."""

    time_ms: int
    event_id: str
    key: bytes
    value: bytes
    event_time: int
    label: bool | None
    """None: this is an event."""


class Sample(NamedTuple):
    """The example's records in the order in which they happen."""

    publications: list[Publication]
    events: int
    truth: dict[str, bool]


class _Departure(msgspec.Struct):
    event_id: str
    event_time: int
    origin: str


class _Arrival(msgspec.Struct):
    event_id: str
    label: bool
    label_time: int


def read_sample(example: Path, events_max: int | None = None) -> Sample:
    """Return the first `events_max` flights with their labels, in time order, labels first on ties.

    Raises SettingsError where the sample is missing.
    """
    departures: dict[str, tuple[_Departure, bytes]] = {}
    decode_departure = msgspec.json.Decoder(_Departure).decode
    decode_arrival = msgspec.json.Decoder(_Arrival).decode
    publications: list[Publication] = []
    truth: dict[str, bool] = {}
    for line in _lines(example / "departures.jsonl.gz"):
        if events_max is not None and len(departures) >= events_max:
            break
        event = decode_departure(line)
        departures[event.event_id] = event, line
    for line in _lines(example / "arrivals.jsonl.gz"):
        arrival = decode_arrival(line)
        found = departures.get(arrival.event_id)
        if found is None:
            continue
        event, _ = found
        truth[event.event_id] = arrival.label
        publications.append(
            Publication(
                arrival.label_time,
                event.event_id,
                event.origin.encode(),
                line,
                event.event_time,
                arrival.label,
            )
        )
    for event, line in departures.values():
        publications.append(
            Publication(event.event_time, event.event_id, event.origin.encode(), line, event.event_time, None)
        )
    publications.sort(key=lambda one: (one.time_ms, one.label is None))
    return Sample(publications, len(departures), truth)


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with gzip.open(path) as lines:
            for line in lines:
                yield line.rstrip(b"\n")
    except FileNotFoundError:
        raise SettingsError(
            f"the demo's sample {path} is missing",
            hint="install headrace anew, or make the sample with examples/flights/make_sample.py",
        ) from None
