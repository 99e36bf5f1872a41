"""`python -m loadtest.keyed`: one race per key, learned by one worker and by two.

Lives here: the pipeline, the two runs, the table.  Never here: starting Kafka (`python -m brokers` of the
tests does, or HEADRACE_KAFKA__BOOTSTRAP_SERVERS names one).

Sixty-four stores lie on two partitions, half of them on each, and every label comes at once.  A run begins
when its workers hold their partitions and ends when every example is learned.  Each worker is pinned to a
core of its own (`taskset`).  What is compared is examples a second of processor time of the busiest worker:
on cores that do nothing else that is what wall time would say, and on a busy machine it can still be told.
Both are printed.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import tempfile
import textwrap
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import typer
from rich.console import Console
from rich.table import Table

from engine.definition.file import load_pipeline
from engine.definition.pipeline import Pipeline
from engine.kafka.sink import open_sink, partition_of
from engine.kafka.topic_admin import ensure_topics
from engine.local.worker import WorkerProcess, worker_command
from engine.settings import KafkaSettings, load_settings
from loadtest.bench.report import machine
from topics.errors import BrokerError
from topics.messages import Content

PARTITIONS: Final = 2
STORES: Final = 64
DEADLINE_S: Final = 900.0
LOOK_S: Final = 0.1
SLICE: Final = 500
"""Events, and as many labels, published at a time."""
START_MS: Final = 1_700_000_000_000

SOURCE = """
    from msgspec import Struct
    from river import ensemble, linear_model, preprocessing, tree

    from headrace import Labels, Pipeline, Topic, by, field


    class Basket(Struct):
        event_id: str
        event_time: int
        store: str
        amount: float
        items: int


    pipeline = Pipeline(
        name="NAME",
        events=Topic("NAME.baskets", Basket, key="store", partitions=2),
        labels=Labels("NAME.returns", wait="1d"),
        features={
            "amount": field("amount"),
            "items": field("items"),
            "mean_1h": by("store").mean("amount", "1h"),
            "n_1h": by("store").count("1h"),
        },
        models={
            "trees": ensemble.BaggingClassifier(tree.HoeffdingTreeClassifier(), n_models=5, seed=1),
            "adaptive": tree.HoeffdingAdaptiveTreeClassifier(seed=1),
            "linear": preprocessing.StandardScaler() | linear_model.LogisticRegression(),
        },
        champion="linear",
        per="store",
    )
"""


class Measured(NamedTuple):
    """One run: how many workers, examples, and what they took."""

    workers: int
    examples: int
    wall_s: float
    cpu_s: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Return examples a second of processor time of the busiest worker."""
        return self.examples / max(self.cpu_s)


def stores() -> list[str]:
    """Return as many stores on each partition."""
    found: dict[int, list[str]] = {number: [] for number in range(PARTITIONS)}
    number = 0
    while min(map(len, found.values())) < STORES // PARTITIONS:
        name = f"store-{number}"
        found[partition_of(name.encode(), PARTITIONS)].append(name)
        number += 1
    return [name for names in found.values() for name in names[: STORES // PARTITIONS]]


def messages(count: int) -> list[tuple[Content, Content]]:
    """Return events with their labels, a second apart."""
    draw, keys, made = random.Random(1), stores(), []  # noqa: S311 no secret
    for number in range(count):
        key, amount, at = keys[number % STORES], draw.gauss(0, 1), START_MS + 1_000 * number
        event = {
            "event_id": f"e{number}",
            "event_time": at,
            "store": key,
            "amount": amount,
            "items": draw.randrange(9),
        }
        label = {"event_id": f"e{number}", "label": amount + draw.gauss(0, 1) > 0, "label_time": at}
        made.append(
            (
                Content(key.encode(), json.dumps(event).encode(), (), at),
                Content(key.encode(), json.dumps(label).encode(), (), at),
            )
        )
    return made


async def until(met: Callable[[], bool], what: str) -> None:
    """Wait until `met()` holds.  Raises BrokerError at the deadline."""
    ends = time.monotonic() + DEADLINE_S
    while not await asyncio.to_thread(met):
        if time.monotonic() > ends:
            raise BrokerError(f"{what}: not within {DEADLINE_S:g} s", hint="see the worker's log")
        await asyncio.sleep(LOOK_S)


def learned(worker: WorkerProcess) -> int:
    """Return how many examples a worker has learned."""
    worker.check()
    page = worker.metrics()
    return 0 if page is None else page.learned


async def measured(kafka: KafkaSettings, folder: Path, workers: int, events: int) -> Measured:
    """Return what a run takes with so many workers, each on a core of its own."""
    name = f"keyed-{uuid.uuid4().hex[:8]}"
    file = folder / f"{name}.py"
    file.write_text(textwrap.dedent(SOURCE).replace("NAME", name), encoding="utf-8")
    pipeline = load_pipeline(file)
    plan = [topic._replace(create=True) for topic in pipeline.catalog.plan(events=PARTITIONS)]
    await ensure_topics(kafka, plan)
    state = {"HEADRACE_STATE_DIR": str(folder / f"{name}-state")}
    with ExitStack() as running:
        started = []
        for core in range(workers):
            own = folder / f"{name}-{core}"
            own.mkdir()
            command = ["taskset", "-c", str(core), *worker_command(file)]
            started.append(running.enter_context(WorkerProcess(command, kafka, own, state)))
        await until(lambda: all(map(_holds_its_share(workers), started)), "every worker holds partitions")
        began_s, before = time.monotonic(), [one.cpu_seconds() or 0.0 for one in started]
        await publish(kafka, pipeline, messages(events))
        await until(lambda: sum(map(learned, started)) >= events, "every example learned")
        wall_s = time.monotonic() - began_s
        spent = [(one.cpu_seconds() or 0.0) - at for one, at in zip(started, before, strict=True)]
    return Measured(workers, events, wall_s, tuple(spent))


def _holds_its_share(workers: int) -> Callable[[WorkerProcess], bool]:
    wanted = f"headrace_partitions {PARTITIONS / workers}"

    def holds(worker: WorkerProcess) -> bool:
        worker.check()
        return worker.ready() and wanted in (worker.page("/metrics") or "")

    return holds


async def publish(kafka: KafkaSettings, pipeline: Pipeline, made: list[tuple[Content, Content]]) -> None:
    """Publish events and their labels, slice by slice."""
    async with open_sink(kafka) as sink:
        for start in range(0, len(made), SLICE):
            part = made[start : start + SLICE]
            await sink.send(pipeline.events.name, None, [event for event, _ in part])
            await sink.send(pipeline.labels.topic or "", None, [label for _, label in part])
            await sink.flush()


def main(
    events: Annotated[int, typer.Option(help="Events of a run, each with its label.")] = 6_000,
    rounds: Annotated[int, typer.Option(help="Runs with one worker, and with two.")] = 3,
) -> None:
    """Learn one race per key with one worker and with two, and print what it takes."""
    kafka, out = load_settings(None).kafka, Console(highlight=False)
    runs: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="headrace-keyed-") as name:
        for _ in range(rounds):
            runs += [asyncio.run(measured(kafka, Path(name), workers, events)) for workers in (1, 2)]
    out.print(machine())
    table = Table("workers", "examples", "wall s", "processor s of each", "examples a processor s", box=None)
    for run in runs:
        spent = " ".join(f"{seconds:.1f}" for seconds in run.cpu_s)
        table.add_row(str(run.workers), f"{run.examples:,}", f"{run.wall_s:.1f}", spent, f"{run.rate:,.0f}")
    out.print(table)
    middle = [statistics.median(run.rate for run in runs if run.workers == workers) for workers in (1, 2)]
    out.print(f"two workers learn {middle[1] / middle[0]:.2f} times as many examples as one, by the medians")


if __name__ == "__main__":
    typer.run(main)
