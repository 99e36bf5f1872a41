"""A million new keys a minute through windows alone: how many are held, and what they take.

Lives here: events of a key of its own each, in event time.  Never here: a broker, or how long it takes.

    python -m loadtest.soak.new_keys
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from engine.host.garbage import search_rarely
from loadtest.soak.pipeline import Reading, pipeline
from operators.windows.features import Features
from topics.messages import Event

START_MS = 1_700_000_000_000
MINUTE_MS = 60_000
BATCH = 1_000


def rss_mb() -> float:
    """Return the resident memory of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main(
    keys: Annotated[int, typer.Option(help="New keys a minute.")] = 1_000_000,
    minutes: Annotated[int, typer.Option(help="Minutes of event time.")] = 6,
) -> None:
    """Tell after each minute of event time what the windows of the soak's pipeline hold."""
    features = Features(pipeline.plan)
    search_rarely()
    table = Table(title=f"{keys:,} new keys a minute")
    for column in ("minute", "keys held", "forgotten", "resident, MB"):
        table.add_column(column, justify="right")
    for minute in range(minutes):
        for first in range(0, keys, BATCH):
            numbers = range(minute * keys + first, minute * keys + min(first + BATCH, keys))
            times = [START_MS + number * MINUTE_MS // keys for number in numbers]
            features.step_events(
                [
                    Event(f"e{number}", time, key, Reading(f"e{number}", time, key, 1.0), number, time)
                    for number, time in zip(numbers, times, strict=True)
                    for key in (f"new-{number}",)
                ]
            )
            features.delta()
        row = (minute + 1, f"{features.key_count:,}", f"{features.evicted_keys:,}", f"{rss_mb():,.0f}")
        table.add_row(*map(str, row))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
