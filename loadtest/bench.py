"""`headrace bench`: the command, its table and its JSON.

Lives here: options in, a report out.  Never here: the run itself (`openloop.py`).

The worker under test runs already, anywhere; this command only sends events to its topic and
reads its predictions.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from engine.backtest import read_lines
from engine.cli import load_pipeline
from engine.pipeline import Pipeline
from engine.settings import load
from loadtest.feed import Feed, made_up_rows, parsed_rows
from loadtest.ledger import EVENTS_MAX
from loadtest.machine import cores, machine
from loadtest.openloop import Load, OpenLoop, Outcome
from topics.codec import encode_json
from topics.durations import duration_ms
from topics.errors import SettingsError

__all__ = ["command", "report"]

MADE_UP = 10_000
"""Distinct made-up events; they are sent round and round."""
SOON_MS = 200
"""A sender later than this at its 99th percentile has measured itself."""


def command(
    *,
    pipeline: Annotated[Path, typer.Option(help="The pipeline file of the running worker.")],
    bootstrap_servers: Annotated[str | None, typer.Option(help="Kafka of the running worker.")] = None,
    config: Annotated[Path | None, typer.Option(help="Settings file; default headrace.toml.")] = None,
    rate: Annotated[float, typer.Option(min=0.1, help="Events per second, whatever comes back.")] = 1_000.0,
    duration: Annotated[str, typer.Option(help="How long events are sent.")] = "30s",
    warmup: Annotated[str, typer.Option(help="First part that is matched but not timed.")] = "2s",
    patience: Annotated[
        str, typer.Option(help="Without a new answer for so long, what is missing is lost.")
    ] = "15s",
    events: Annotated[
        Path | None, typer.Option(help="Events to send round and round, JSON lines (.gz too).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of made-up events.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Send events at a fixed rate to a running worker; match and time every prediction."""
    kafka = {} if bootstrap_servers is None else {"kafka": {"bootstrap_servers": bootstrap_servers}}
    settings = load(config, **kafka)
    definition = load_pipeline(pipeline)
    plan = Load(
        rate, duration_ms(duration) / 1_000, duration_ms(warmup) / 1_000, duration_ms(patience) / 1_000
    )
    if plan.events > EVENTS_MAX or plan.warmup_s >= plan.duration_s:
        raise SettingsError(
            f"{plan.events} events with a warm-up of {warmup} in {duration} cannot be measured",
            hint=f"send at most {EVENTS_MAX} events and warm up for less than the duration",
        )
    loop = OpenLoop(
        settings.kafka,
        pipeline_name=definition.name,
        events=definition.catalog["events"],
        predictions=definition.catalog["predictions"],
        feed=_feed(definition, events, seed),
    )
    found = report(plan, _run(loop, plan))
    if json:
        typer.echo(encode_json(found).decode())
    else:
        _print(definition.name, found)
    if found["lost"] or found["mismatched"]:
        raise typer.Exit(1)


def _feed(pipeline: Pipeline, events: Path | None, seed: int) -> Feed:
    if events is None:
        rows = made_up_rows(pipeline.events, count=MADE_UP, seed=seed)
    else:
        chunks = read_lines(events, pipeline.events.name)
        rows = parsed_rows(record.value or b"" for chunk in chunks for record in chunk)
    return Feed(pipeline.events, rows, run=f"bench-{time.time_ns():x}")


def _run(loop: OpenLoop, plan: Load) -> Outcome:
    try:
        import uvloop  # noqa: PLC0415 - not on every system
    except ModuleNotFoundError:
        return asyncio.run(loop.run(plan))
    outcome: Outcome = uvloop.run(loop.run(plan))
    return outcome


def report(plan: Load, outcome: Outcome) -> dict[str, Any]:
    """Return the result as one plain object."""
    account = outcome.account
    return {
        "rate": plan.rate,
        "duration_s": plan.duration_s,
        "warmup_s": plan.warmup_s,
        "events": account.sent,
        "answered": account.answered,
        "lost": account.lost,
        "duplicated": account.duplicated,
        "mismatched": account.mismatched,
        "foreign": account.foreign,
        "notes": list(account.notes),
        "throughput_per_s": round(account.answered / outcome.seconds, 1) if outcome.seconds else 0.0,
        "latency_ms": outcome.latency.summary_ms(),
        "timed": len(outcome.latency),
        "sender_late_ms": outcome.lateness.summary_ms(),
        "machine": machine(),
        "cores": cores(),
    }


def _print(name: str, found: dict[str, Any]) -> None:
    console = Console(soft_wrap=True)
    table = Table(title=f"{name}: {found['rate']:g} events/s for {found['duration_s']:g} s, open loop")
    for column in ("ms", "p50", "p90", "p99", "p99.9", "max", "mean"):
        table.add_column(column, justify="right" if column != "ms" else "left")
    for title, part in (("due to read", "latency_ms"), ("of it: sender late", "sender_late_ms")):
        summary = found[part]
        levels = ("p50", "p90", "p99", "p99.9", "max", "mean")
        table.add_row(title, *(f"{summary[level]:.2f}" if summary else "-" for level in levels))
    console.print(table)
    console.print(
        f"events {found['events']}  answered {found['answered']} ({found['throughput_per_s']:g}/s)  "
        f"lost {found['lost']}  duplicated {found['duplicated']}  mismatched {found['mismatched']}  "
        f"foreign {found['foreign']}"
    )
    for note in found["notes"]:
        console.print(f"  mismatch: {note}", markup=False)
    console.print(
        f"on {found['machine']}; sender and reader share them with whatever of broker and worker runs here"
    )
    if found["sender_late_ms"] and found["sender_late_ms"]["p99"] > SOON_MS:
        console.print("the sender itself was late: this rate is more than this machine can send")
