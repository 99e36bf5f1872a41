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
    "one worker, 8 partitions": Case(1, partitions=8),
    "two, follow=1s, leader has 4 of 8": Case(2, "1s", partitions=8),
    "two, follow=1s, leader has 2 of 8": Case(2, "1s", partitions=8, leader_partitions_max=2),
    "two, follow=1s, leader has 1 of 8": Case(2, "1s", partitions=8, leader_partitions_max=1),
}
ALONE = {
    name: next(
        other
        for other, one in CASES.items()
        if one == case._replace(workers=1, follow="", leader_partitions_max=0)
    )
    for name, case in CASES.items()
}
"""The case that each is compared with."""


async def _measure(
    kafka: KafkaSettings, cases: Sequence[str], payments: int, rounds: int, rate: int, seconds: int
) -> tuple[dict[str, list[CpuTaken]], Ages | None]:
    found: dict[str, list[CpuTaken]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name in cases:
            found[name].append(await taken(kafka, CASES[name], payments))
            print(f"{name}: {[round(us) for us in found[name][-1].cpu_us]} us", flush=True)
    return found, await ages(kafka, "1s", rate, seconds) if seconds else None


def _middle(values: Sequence[float]) -> float:
    return statistics.median(values)


def main(
    payments: Annotated[int, typer.Option(help="payments of one round")] = 20_000,
    rounds: Annotated[int, typer.Option(help="rounds of each case")] = 3,
    partitions: Annotated[int, typer.Option(help="only the cases of so many partitions; 0: all")] = 0,
    rate: Annotated[int, typer.Option(help="payments per second while the ages of models are taken")] = 800,
    seconds: Annotated[int, typer.Option(help="how long ages are taken; 0: not at all")] = 60,
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
    cases = [name for name, case in CASES.items() if partitions in (0, case.partitions)]
    if bootstrap_servers:
        kafka = KafkaSettings(bootstrap_servers=bootstrap_servers)
        found, old = asyncio.run(_measure(kafka, cases, payments, rounds, rate, seconds))
    else:
        with EmbeddedBroker() as broker:
            kafka = broker.kafka_settings()
            found, old = asyncio.run(_measure(kafka, cases, payments, rounds, rate, seconds))
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
    if old is not None:
        console.print(
            f"models of a follower, {old.answers:,} answers at {rate}/s: median {old.median_s:.2f} s,"
            f" p99 {old.p99_s:.2f} s, at most {old.most_s:.2f} s old"
        )


if __name__ == "__main__":
    typer.run(main)
