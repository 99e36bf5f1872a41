"""Planted shifts, false alarms and the cost of watching; writes the tables of `docs/drift-results.md`.

Lives here: the command.  Never here: streams, plants, runs, tables.

Run as `python -m loadtest.shift`; the data sets lie in `--data` (or HEADRACE_DATA).  Each table can be made
by itself, `--only alarms`.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from loadtest.learning.page import put
from loadtest.shift.cost import SIZES, measured
from loadtest.shift.power import label_bounds
from loadtest.shift.tables import (
    FOUND_WITHIN,
    PROMISE,
    alarms_table,
    confusion_table,
    cost_table,
    false_alarms,
    hits,
    hits_table,
    power_table,
)
from topics.errors import HeadraceError

COMMAND = "python -m loadtest.shift"
PAGE = Path(__file__).parents[2] / "docs" / "drift-results.md"


class Part(StrEnum):
    """A part of the page."""

    cost = "cost"
    alarms = "alarms"
    planted = "planted"
    """Two tables: plants, and the confusion of verdicts."""
    power = "power"


def main(
    *,
    data: Annotated[Path, typer.Option(envvar="HEADRACE_DATA", help="Folder of the data sets.")],
    only: Annotated[
        list[Part] | None, typer.Option(help="Make this part again, the others stay; repeatable.")
    ] = None,
    runs: Annotated[int, typer.Option(min=7, help="Runs that stand still; the page has 200.")] = 200,
    plants: Annotated[int, typer.Option(min=1, help="Runs of each plant.")] = 3,
    jobs: Annotated[int, typer.Option(min=1, help="Streams played at the same time.")] = 2,
    page: Annotated[Path, typer.Option(help="The page whose tables are replaced.")] = PAGE,
    write: Annotated[bool, typer.Option(help="Put the tables into the page.")] = True,
) -> None:
    """Play every stream and write the tables."""
    made: dict[str, tuple[str, Part]] = {}
    parts = only or list(Part)
    if Part.cost in parts:
        made["cost"] = (cost_table([measured(events) for events in SIZES]), Part.cost)
    if Part.power in parts:
        made["power"] = (power_table(label_bounds(data, FOUND_WITHIN, PROMISE, jobs)), Part.power)
    if Part.planted in parts:
        found = hits(data, plants, jobs)
        made["planted"] = (hits_table(found), Part.planted)
        made["confusion"] = (confusion_table(found), Part.planted)
    if Part.alarms in parts:
        made["alarms"] = (alarms_table(false_alarms(data, runs, jobs)), Part.alarms)
    for name, (table, part) in made.items():
        if write:
            put(page, name, table, f"{COMMAND} --only {part}")
        typer.echo(f"{table}\n")


if __name__ == "__main__":
    try:
        typer.run(main)
    except HeadraceError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(1) from None
