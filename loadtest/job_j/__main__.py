"""Job J: Headrace beside bare River and a plain Faust agent, in one run.

Lives here: rounds, medians, ratios, the table.  Never here: the contestants (`in_process.py`,
`over_kafka.py`).

Run as `python -m loadtest.job_j`; with `--bootstrap-servers` (or KAFKA_BOOTSTRAP_SERVERS) over
Kafka too.  Contestants in process take turns of 10,240 events, those over Kafka run one after the other,
and a ratio is the median of the ratios within rounds, since a shared machine moves by a factor of two
between one minute and the next.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import typer
from rich.console import Console
from rich.table import Table

from engine.definition.file import load_pipeline
from engine.settings import load_settings
from loadtest.bench.report import cores, machine
from loadtest.job_j.in_process import bare_river, check_equal, headrace, plain_job, take_turns
from loadtest.job_j.over_kafka import Throughput, faust_agent, headrace_worker, measure
from loadtest.job_j.plain import features_of, make_events
from topics.codec import encode_json
from topics.errors import HeadraceError

__all__ = ["Round", "summary"]

RIVER, PLAIN, LOCAL = "bare River, features given", "plain job in process", "Headrace in process"
WORKER, FAUST = "Headrace worker over Kafka", "Faust agent over Kafka"
CHECKED = 5_000
"""Events over which Headrace and the plain job must agree before anything is timed."""
PLAIN_WIDTH = 132
"""Columns of a table that no terminal shows."""
WARM = 2_000
"""Events each loop runs over first: imports, caches, compiled code."""


class Round(NamedTuple):
    """One round of one contestant."""

    rate: float
    """Events per second of wall time."""
    cpu_us: float | None
    """Processor time per event of the process that did the work."""
    over_kafka: Throughput | None = None


def main(
    *,
    events: Annotated[int, typer.Option(min=1_000, help="Events in process and for the worker.")] = 100_000,
    faust_events: Annotated[int, typer.Option(min=1_000, help="Events for Faust, which is slower.")] = 20_000,
    rounds: Annotated[int, typer.Option(min=1, help="How often each contestant runs.")] = 5,
    kafka_rounds: Annotated[int, typer.Option(min=1, help="In how many of them over Kafka too.")] = 3,
    cards: Annotated[str, typer.Option(help="zipf (1,000 cards) or uniform (100,000).")] = "zipf",
    bootstrap_servers: Annotated[
        str | None, typer.Option(envvar="KAFKA_BOOTSTRAP_SERVERS", help="Kafka; without it, in process only.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure job J and print events per second, and ratios to bare River in the same rounds."""
    console = Console(stderr=True, quiet=json, soft_wrap=True)
    spread: Literal["zipf", "uniform"] = "uniform" if cards == "uniform" else "zipf"
    data = make_events(events, spread)
    pipeline = load_pipeline(Path(__file__).with_name("pipeline.py"))
    differences = check_equal(pipeline, data[:CHECKED])
    rows = list(features_of(data))
    console.print(f"exact over {CHECKED} events; {events} events a round, {rounds} rounds, {cards}")

    def loops(count: int) -> dict[str, Iterator[None]]:
        return {
            RIVER: bare_river(rows[:count]),
            PLAIN: plain_job(data[:count]),
            LOCAL: headrace(pipeline, data[:count]),
        }

    take_turns(loops(WARM))
    rounds_of: dict[str, list[Round]] = {}
    for number in range(rounds):
        for name, (wall_s, cpu_s) in take_turns(loops(events)).items():
            rounds_of.setdefault(name, []).append(Round(events / wall_s, cpu_s / events * 1e6))
        if bootstrap_servers is not None and number < kafka_rounds:
            for name, sample in _over_kafka(bootstrap_servers, number, data, faust_events).items():
                rounds_of.setdefault(name, []).append(sample)
        console.print("  ".join(f"{name} {taken[-1].rate:,.0f}/s" for name, taken in rounds_of.items()))
    found = summary(rounds_of)
    found |= {"events": events, "faust_events": faust_events, "cards": cards, "differences": differences}
    if json:
        typer.echo(encode_json(found).decode())
    else:
        _print(found)


def _over_kafka(
    bootstrap_servers: str, number: int, data: Sequence[bytes], faust_events: int
) -> dict[str, Round]:
    """Run one round of both contestants over Kafka."""
    kafka = load_settings(kafka={"bootstrap_servers": bootstrap_servers}).kafka
    run = f"job-j-{time.time_ns() // 1_000_000:x}-{number}"
    worker, faust = headrace_worker(f"{run}-h"), faust_agent(f"{run}-f", kafka)
    found = {
        WORKER: asyncio.run(measure(kafka, f"{run}-h", worker, data)),
        FAUST: asyncio.run(measure(kafka, f"{run}-f", faust, data[:faust_events])),
    }
    return {name: Round(result.events_per_s, result.cpu_us, result) for name, result in found.items()}


def summary(rounds_of: Mapping[str, Sequence[Round]]) -> dict[str, Any]:
    """Return medians, spreads, and ratios to bare River and to Faust within rounds."""
    rows = []
    river, faust = rounds_of[RIVER], rounds_of.get(FAUST)
    for name, samples in rounds_of.items():
        rates = [sample.rate for sample in samples]
        row: dict[str, Any] = {
            "name": name,
            "events_per_s": round(statistics.median(rates)),
            "min": round(min(rates)),
            "max": round(max(rates)),
            "us_per_event": round(1e6 / statistics.median(rates), 2),
            "to_river": _spread([a.rate / b.rate for a, b in zip(samples, river, strict=False)]),
            "cpu_us_per_event": None,
            "cpu_to_river": None,
        }
        if faust is not None:
            row["to_faust"] = _spread([a.rate / b.rate for a, b in zip(samples, faust, strict=False)])
        cpu = [(a.cpu_us, b.cpu_us) for a, b in zip(samples, river, strict=False) if a.cpu_us and b.cpu_us]
        if cpu:
            row["cpu_us_per_event"] = round(statistics.median(mine for mine, _ in cpu), 1)
            row["cpu_to_river"] = _spread([base / mine for mine, base in cpu])
        if results := [sample.over_kafka for sample in samples if sample.over_kafka is not None]:
            row["lost"] = sum(result.lost for result in results)
            row["duplicated"] = sum(result.duplicated for result in results)
            row["examples"] = [result.examples for result in results]
        rows.append(row)
    return {"rows": rows, "machine": machine(), "cores": cores()}


def _spread(ratios: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(ratios), 3),
        "min": round(min(ratios), 3),
        "max": round(max(ratios), 3),
    }


def _print(found: dict[str, Any]) -> None:
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    table = Table(title=f"job J, {found['cards']} cards, {found['events']:,} events a round")
    table.add_column("contestant", no_wrap=True)
    for column in (
        "ev/s",
        "min-max",
        "us/ev",
        "to bare River",
        "min-max",
        "to Faust",
        "CPU us/ev",
        "CPU ratio",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for row in found["rows"]:
        river, faust, cpu = row["to_river"], row.get("to_faust"), row["cpu_to_river"]
        table.add_row(
            row["name"],
            f"{row['events_per_s']:,}",
            f"{row['min']:,}-{row['max']:,}",
            f"{row['us_per_event']:.1f}",
            f"{river['median']:.2f}",
            f"{river['min']:.2f}-{river['max']:.2f}",
            f"{faust['median']:.1f}" if faust else "-",
            f"{row['cpu_us_per_event']:.1f}" if cpu else "-",
            f"{cpu['median']:.2f}" if cpu else "-",
        )
    console.print(table)
    for row in found["rows"]:
        if "lost" in row:
            console.print(f"{row['name']}: lost {row['lost']}, duplicated {row['duplicated']}")
    console.print(
        f"{found['machine']}. In process: one core. Over Kafka: driver, broker and contestant share "
        f"{found['cores']} cores; the worker keeps checkpoints and an examples log, Faust keeps nothing. "
        "CPU ratio: processor time of bare River to that of the contestant's process, per event."
    )


if __name__ == "__main__":
    try:
        typer.run(main)
    except HeadraceError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(1) from None
