"""`python -m loadtest.looked_at`: what it costs a worker that somebody looks at its page.

Lives here: one worker with a race of some thousand flights behind it, clients that listen to its stream, the
table.  Never here: what a page says (`engine/page`), a browser: what it draws costs another machine.

At rest the worker has nothing else to do, so the processor time that clients add to what it takes is theirs:
snapshots, their bytes, and HTTP.  With `--rate` flights arrive meanwhile; what an event costs differs from
row to row, so there the snapshots are what says most: the worker times them itself.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import aiohttp
import typer
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from engine.definition.file import load_pipeline
from engine.host.pages import STREAMS_MAX
from engine.kafka.embedded import EmbeddedBroker
from engine.kafka.sink import Sink, open_sink
from engine.kafka.topic_admin import ensure_topics
from engine.local.worker import WorkerProcess, worker_command
from engine.offline.publish import FileLine, send_step, steps
from engine.page.site import STREAM_PATH
from engine.settings import KafkaSettings
from loadtest.bench.report import machine
from loadtest.demo.figures import CATALOG, EXAMPLE_FOLDER, read_sample
from loadtest.demo.race import next_slice

__all__ = ["looked_at"]

EVENTS: Final = 3_000
SECONDS: Final = 30.0
LISTENERS: Final = (0, 1, STREAMS_MAX)
READY_S: Final = 600.0
LOOK_S: Final = 0.5
SLICE_S: Final = 0.1


class Taken(NamedTuple):
    """What a worker has used so far, in seconds."""

    at_s: float
    processor_s: float
    page_s: float
    learned: float
    answered: float


class Cost(NamedTuple):
    """What a worker takes with so many listeners, a second of the clock."""

    listeners: int
    processor_s: float
    page_s: float
    bytes_each: float
    answers: float


async def taken(session: aiohttp.ClientSession) -> Taken:
    """Return what the worker says of itself."""
    async with session.get("/metrics") as answer:
        text = await answer.text()
    samples = {
        (sample.name, sample.labels.get("step", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    return Taken(
        time.monotonic(),
        samples["process_cpu_seconds_total", ""],
        samples["headrace_step_seconds_total", "page"],
        samples["headrace_examples_total", ""],
        sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "headrace_predictions_total"
        ),
    )


async def listen(session: aiohttp.ClientSession) -> int:
    """Listen for SECONDS; return the bytes that came."""
    heard = 0
    try:
        async with asyncio.timeout(SECONDS), session.get(STREAM_PATH) as answer:
            async for part in answer.content.iter_any():
                heard += len(part)
    except TimeoutError:
        pass
    return heard


async def measured(session: aiohttp.ClientSession, listeners: int) -> Cost:
    """Return what it costs that so many listen."""
    before = await taken(session)
    _, heard = await asyncio.gather(
        asyncio.sleep(SECONDS), asyncio.gather(*(listen(session) for _ in range(listeners)))
    )
    after = await taken(session)
    seconds = after.at_s - before.at_s
    return Cost(
        listeners,
        (after.processor_s - before.processor_s) / seconds,
        (after.page_s - before.page_s) / seconds,
        sum(heard) / max(listeners, 1) / seconds,
        (after.answered - before.answered) / seconds,
    )


async def feed(sink: Sink, lines: Iterator[FileLine], rate: float) -> None:
    """Publish so many flights a second, with the labels due by then, until cancelled or all are out."""
    due_s = time.monotonic()
    while any(part := next_slice(lines, max(1, round(rate * SLICE_S)))):
        for step in part:
            if step:
                await send_step(sink, CATALOG, step)
        due_s += SLICE_S
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))


async def race_and_look(kafka: KafkaSettings, worker: WorkerProcess, events: int, rate: float) -> list[Cost]:
    """Let the worker learn some flights, then look at it with ever more listeners."""
    pipeline = load_pipeline(EXAMPLE_FOLDER / "pipeline.py")
    sample = read_sample(pipeline, EXAMPLE_FOLDER, events + round(rate * SECONDS * (len(LISTENERS) + 2)))
    lines = iter(sample.lines)
    labels, first = next_slice(lines, events)
    async with open_sink(kafka) as sink:
        for step in steps(sorted([*labels, *first], key=lambda line: (line.time_ms, not line.is_label))):
            await send_step(sink, CATALOG, step)
        await _until_learned(worker, len(labels))
        feeding = asyncio.create_task(feed(sink, lines, rate)) if rate else None
        try:
            return await _looked_at(worker)
        finally:
            if feeding is not None:
                feeding.cancel()


async def _until_learned(worker: WorkerProcess, labels: int) -> None:
    base = f"http://127.0.0.1:{worker.port}"
    async with aiohttp.ClientSession(base) as session, asyncio.timeout(READY_S):
        while True:
            worker.check()
            try:
                if (await taken(session)).learned >= labels:
                    return
            except aiohttp.ClientError:
                pass  # it does not listen yet
            await asyncio.sleep(LOOK_S)


async def _looked_at(worker: WorkerProcess) -> list[Cost]:
    connector = aiohttp.TCPConnector(limit=2 * STREAMS_MAX)
    base = f"http://127.0.0.1:{worker.port}"
    async with aiohttp.ClientSession(base, connector=connector) as session, asyncio.timeout(READY_S):
        await asyncio.sleep(SECONDS)  # checkpoints and their garbage are over
        return [await measured(session, listeners) for listeners in LISTENERS]


def table_of(costs: list[Cost]) -> Table:
    """Return the costs as a table; the share is that of one processor beyond the first row."""
    table = Table(
        "listeners", "processor, ms a second", "of a worker", "snapshots, ms a second", "KB a second each"
    )
    table.add_column("answers a second")
    for cost in costs:
        table.add_row(
            str(cost.listeners),
            f"{1_000 * cost.processor_s:.1f}",
            f"{100 * (cost.processor_s - costs[0].processor_s):.2f} %",
            f"{1_000 * cost.page_s:.2f}",
            f"{cost.bytes_each / 1_000:.1f}",
            f"{cost.answers:.0f}",
        )
    return table


def looked_at(
    events: Annotated[int, typer.Option(min=1, help="Flights learned before.")] = EVENTS,
    rate: Annotated[float, typer.Option(min=0.0, help="Flights a second meanwhile; 0: none.")] = 0.0,
) -> None:
    """Measure what listeners cost a worker, with one, and with as many as there may be."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="headrace-page-") as folder, EmbeddedBroker() as broker:
        kafka = broker.kafka_settings().model_copy(update={"replication_factor": -1})
        plan = [topic._replace(create=True) for topic in CATALOG.plan(events=1)]
        asyncio.run(ensure_topics(kafka, plan))
        command = worker_command(EXAMPLE_FOLDER / "pipeline.py")
        with WorkerProcess(command, kafka, Path(folder)) as worker:
            console.print(table_of(asyncio.run(race_and_look(kafka, worker, events, rate))))
    console.print(f"{machine()}; {events:,} flights learned, {rate:g}/s meanwhile, {SECONDS:.0f} s a row")


if __name__ == "__main__":
    typer.run(looked_at)
