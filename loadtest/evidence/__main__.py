"""Simulated races: false swaps, delays, collapses; writes their part of `docs/learning-results.md`.

Lives here: the command.  Never here: laws, rule, tables.

Run as `python -m loadtest.evidence`; it takes some minutes of one core.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loadtest.evidence.tables import evidence_section
from loadtest.learning.page import put

PAGE = Path(__file__).parents[2] / "docs" / "learning-results.md"


def main(
    *,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each law; the page has 200.")] = 200,
    write: Annotated[bool, typer.Option(help="Put the tables into the page.")] = True,
    page: Annotated[Path, typer.Option(help="The page whose part is replaced.")] = PAGE,
) -> None:
    """Play every law and print the tables."""
    section = evidence_section(runs)
    if write:
        put(page, "evidence", section)
    typer.echo(section)


if __name__ == "__main__":
    typer.run(main)
