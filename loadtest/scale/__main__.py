"""The command: what one payment costs by part, what a second worker brings, how old a follower's models are.

Lives here: cases, rounds in turns, the tables.  Never here: how a figure is taken (`rounds.py`, `parts.py`).
"""

from __future__ import annotations

import asyncio
import os
import statistics
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from engine.kafka.embedded import EmbeddedBroker
from engine.settings import KafkaSettings
from loadtest.bench.report import machine
from loadtest.scale.parts import costs
from loadtest.scale.pipeline import pipeline
from loadtest.scale.rounds import Ages, Case, CpuTaken, ages, taken

CASES = {
    "one worker": Case(1),
    "two, both learn": Case(2),
    "two, follow=1s": Case(2, "1s"),
    "one worker, learn_share=0.1": Case(1, learn_share=0.1),
    "two, follow=1s, learn_share=0.1": Case(2, "1s", 0.1),
}
ALONE = {name: name if case.workers == 1 else "one worker" for name, case in CASES.items()} | {
    "two, follow=1s, learn_share=0.1": "one worker, learn_share=0.1"
}
"""The case that each is compared with."""


async def _measure(
    kafka: KafkaSettings, payments: int, rounds: int, rate: int, seconds: int
) -> tuple[dict[str, list[CpuTaken]], Ages]:
    found: dict[str, list[CpuTaken]] = {name: [] for name in CASES}
    for _ in range(rounds):
        for name, case in CASES.items():
            found[name].append(await taken(kafka, case, payments))
            print(f"{name}: {[round(us) for us in found[name][-1].cpu_us]} us", flush=True)
    return found, await ages(kafka, "1s", rate, seconds)


def _middle(values: Sequence[float]) -> float:
    return statistics.median(values)


def main(
    payments: Annotated[int, typer.Option(help="payments of one round")] = 20_000,
    rounds: Annotated[int, typer.Option(help="rounds of each case")] = 3,
    rate: Annotated[int, typer.Option(help="payments per second while the ages of models are taken")] = 800,
    seconds: Annotated[int, typer.Option(help="how long ages are taken")] = 60,
    bootstrap_servers: Annotated[str, typer.Option(help="a Kafka; none: the embedded broker")] = "",
) -> None:
    """Measure and print the tables of docs/scaling.md."""
    console = Console(width=110)
    console.print(f"{machine()}; {len(os.sched_getaffinity(0))} cores for broker, driver and workers")
    table = Table("part", "us of processor time", title="One payment and its label, in process")
    parts = costs(pipeline, payments)
    for name, spent_us in parts.items():
        table.add_row(name, f"{spent_us:.0f}")
    table.add_row("together", f"{sum(parts.values()):.0f}")
    console.print(table)
    if bootstrap_servers:
        kafka = KafkaSettings(bootstrap_servers=bootstrap_servers)
        found, old = asyncio.run(_measure(kafka, payments, rounds, rate, seconds))
    else:
        with EmbeddedBroker() as broker:
            found, old = asyncio.run(_measure(broker.kafka_settings(), payments, rounds, rate, seconds))
    heads = ("workers", "leader us", "other us", "payments/s", "times one", "by the clock")
    table = Table(*heads, title="A payment in real workers, processor time")
    for name, taken_ in found.items():
        each = [_middle([one.cpu_us[at] for one in taken_]) for at in range(CASES[name].workers)]
        ratios = [one.per_s / alone.per_s for one, alone in zip(taken_, found[ALONE[name]], strict=True)]
        table.add_row(
            name,
            f"{each[0]:.0f}",
            f"{each[1]:.0f}" if len(each) > 1 else "",
            f"{_middle([one.per_s for one in taken_]):,.0f}",
            f"{_middle(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            f"{_middle([one.wall_per_s for one in taken_]):,.0f}",
        )
    console.print(table)
    console.print(
        f"models of a follower, {old.answers:,} answers at {rate}/s: median {old.median_s:.2f} s,"
        f" p99 {old.p99_s:.2f} s, at most {old.most_s:.2f} s old"
    )


if __name__ == "__main__":
    typer.run(main)
