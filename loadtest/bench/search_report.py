"""What a search for the highest rate came to: as JSON, and as a table of its steps.

Lives here: the words of a search.  Never here: the search (`slo.py`, `runs.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from loadtest.bench.openloop import Load
from loadtest.bench.runs import RateSearch
from loadtest.bench.slo import RateStep, SloBound

__all__ = ["print_search", "search_report", "tell_step"]


def tell_step(step: RateStep) -> None:
    """Say a step as it ends, on stderr."""
    typer.echo(f"{step.rate:g} events/s: {step.why or 'kept'}", err=True)


def search_report(name: str, search: RateSearch, plan: Load, bounds: Sequence[SloBound]) -> dict[str, Any]:
    """Return a search as one plain object; the reports of its steps without their slices."""
    return {
        "pipeline": name,
        "slo": [one.text for one in bounds],
        "first_rate": plan.rate,
        "highest_rate": search.rate,
        "steps": [
            {**step._asdict(), "report": {key: value for key, value in found.items() if key != "slices"}}
            for step, found in zip(search.steps, search.reports, strict=True)
        ],
    }


def print_search(name: str, search: RateSearch, bounds: Sequence[SloBound]) -> None:
    """Print the steps of a search, by rate, and what came of it."""
    console = Console(soft_wrap=True)
    promise = ", ".join(one.text for one in bounds)
    table = Table(title=f"{name}: the highest rate with {promise}")
    for column in ("events/s", "p50 ms", "p99 ms", "answers/s", "ms of processor an answer", "kept"):
        table.add_column(column, justify="left" if column == "kept" else "right")
    for step, found in sorted(zip(search.steps, search.reports, strict=True), key=lambda pair: pair[0].rate):
        summary, cpu_ms = found["latency_ms"], found["workers"]["cpu_ms_per_answer"]
        table.add_row(
            f"{step.rate:g}",
            *(f"{summary[level]:.1f}" if summary else "-" for level in ("p50", "p99")),
            f"{found['throughput_per_s']:g}",
            "-" if cpu_ms is None else f"{cpu_ms:.3f}",
            step.why or "yes",
            style="green" if step.held else "",
        )
    console.print(table)
    if search.rate is None:
        console.print(f"no rate that was tried keeps {promise}", style="bold red")
    else:
        console.print(f"{search.rate:g} events/s is the highest that was tried and keeps {promise}")
