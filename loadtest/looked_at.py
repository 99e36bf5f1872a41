"""`python -m loadtest.looked_at`: what it costs a worker that somebody looks at its page.

Lives here: one worker with a race of some thousand flights behind it, clients that listen to its stream, the
table.  Never here: what a page says (`engine/page`), a browser: what it draws costs another machine.

The worker has nothing else to do, so the processor time that clients add to what it takes at rest is theirs:
snapshots, their bytes, and HTTP.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
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
from engine.kafka.sink import open_sink
from engine.kafka.topic_admin import ensure_topics
from engine.local.worker import WorkerProcess, worker_command
from engine.offline.publish import send_step, steps
from engine.page.site import STREAM_PATH
from engine.settings import KafkaSettings
from loadtest.bench.report import machine
from loadtest.demo.figures import CATALOG, EXAMPLE_FOLDER, read_sample

__all__ = ["looked_at"]

EVENTS: Final = 3_000
SECONDS: Final = 30.0
LISTENERS: Final = (0, 1, STREAMS_MAX)
READY_S: Final = 600.0
LOOK_S: Final = 0.5


class Taken(NamedTuple):
    """What a worker has used so far, in seconds."""

    at_s: float
    processor_s: float
    page_s: float
    learned: float


class Cost(NamedTuple):
    """What a worker takes with so many listeners, a second of the clock."""

    listeners: int
    processor_s: float
    page_s: float
    bytes_each: float


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
    )


async def race_and_look(kafka: KafkaSettings, worker: WorkerProcess, events: int) -> list[Cost]:
    """Let the worker learn some flights, then look at it with ever more listeners."""
    pipeline = load_pipeline(EXAMPLE_FOLDER / "pipeline.py")
    sample = read_sample(pipeline, EXAMPLE_FOLDER, events)
    async with open_sink(kafka) as sink:
        for step in steps(sample.lines):
            await send_step(sink, CATALOG, step)
    connector = aiohttp.TCPConnector(limit=2 * STREAMS_MAX)
    base = f"http://127.0.0.1:{worker.port}"
    async with aiohttp.ClientSession(base, connector=connector) as session, asyncio.timeout(READY_S):
        while True:
            worker.check()
            try:
                if (await taken(session)).learned >= len(sample.lines) - sample.events:
                    break
            except aiohttp.ClientError:
                pass  # it does not listen yet
            await asyncio.sleep(LOOK_S)
        await asyncio.sleep(SECONDS)  # checkpoints and their garbage are over
        return [await measured(session, listeners) for listeners in LISTENERS]


def table_of(costs: list[Cost]) -> Table:
    """Return the costs as a table; the share is that of one processor beyond the first row."""
    table = Table(
        "listeners", "processor, ms a second", "of a worker", "snapshots, ms a second", "KB a second each"
    )
    for cost in costs:
        table.add_row(
            str(cost.listeners),
            f"{1_000 * cost.processor_s:.1f}",
            f"{100 * (cost.processor_s - costs[0].processor_s):.2f} %",
            f"{1_000 * cost.page_s:.2f}",
            f"{cost.bytes_each / 1_000:.1f}",
        )
    return table


def looked_at(events: Annotated[int, typer.Option(min=1, help="Flights learned before.")] = EVENTS) -> None:
    """Measure what listeners cost an idle worker, with one, and with as many as there may be."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="headrace-page-") as folder, EmbeddedBroker() as broker:
        kafka = broker.kafka_settings().model_copy(update={"replication_factor": -1})
        plan = [topic._replace(create=True) for topic in CATALOG.plan(events=1)]
        asyncio.run(ensure_topics(kafka, plan))
        command = worker_command(EXAMPLE_FOLDER / "pipeline.py")
        with WorkerProcess(command, kafka, Path(folder)) as worker:
            console.print(table_of(asyncio.run(race_and_look(kafka, worker, events))))
    console.print(f"{machine()}; {events:,} flights learned, {SECONDS:.0f} s a row")


if __name__ == "__main__":
    typer.run(looked_at)
