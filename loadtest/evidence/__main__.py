"""Simulated races: false swaps, delays, collapses; writes their part of `docs/learning-results.md`.

Lives here: the command.  Never here: laws, rule, tables.

Run as `python -m loadtest.evidence`; it takes some minutes of one core.  Each table can be made by itself,
`--only collapse`.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from loadtest.evidence.tables import TABLES, Plays
from loadtest.learning.page import put

COMMAND = "python -m loadtest.evidence"
PAGE = Path(__file__).parents[2] / "docs" / "learning-results.md"
Part = StrEnum("Part", list(TABLES))  # type: ignore[misc]
"""A table of the page."""


def main(
    *,
    only: Annotated[
        list[Part] | None, typer.Option(help="Make this table again, the others stay; repeatable.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each law; the page has 1,000.")] = 1_000,
    write: Annotated[bool, typer.Option(help="Put the tables into the page.")] = True,
    page: Annotated[Path, typer.Option(help="The page whose parts are replaced.")] = PAGE,
) -> None:
    """Play every law and print the tables."""
    plays = Plays(runs)
    for part in only or list(Part):
        text = TABLES[part](plays)
        if write:
            put(page, part, text, f"{COMMAND} --only {part}")
        typer.echo(f"{text}\n")


if __name__ == "__main__":
    typer.run(main)
