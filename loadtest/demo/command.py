"""`headrace demo`: a broker, a worker, three months of flights, and a race to watch.

Lives here: options, the processes, the exit code.  Never here: the run itself (`race.py`).

Whatever was started is stopped by its own process id, in the reverse order, also on Ctrl-C.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from engine.definition.file import load_pipeline
from engine.kafka.embedded import EmbeddedBroker
from engine.kafka.topic_admin import ensure_topics
from loadtest.demo.pace import FeedPace, Flood, TwoThirds
from loadtest.demo.race import Race
from loadtest.demo.sample import CATALOG, EXAMPLE_FOLDER, read_sample
from loadtest.signals import interrupted_by_signals
from loadtest.worker_process import WorkerProcess, worker_command
from topics.errors import BrokerError, HeadraceError

__all__ = ["demo", "run"]

RATE = 10_000.0
"""Ceiling in events per second, beyond one worker: by default the worker sets the pace."""


def demo(
    *,
    events: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many flights; default: all.")
    ] = None,
    rate: Annotated[float, typer.Option(min=1.0, help="Flights per second at most.")] = RATE,
    flood: Annotated[
        bool,
        typer.Option("--flood", help="Publish as fast as the worker takes it, not at two thirds of that."),
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave broker and worker up until Ctrl-C.")] = False,
) -> None:
    """Race three models on real flights: embedded broker, one worker, a live table.

    Exit code 0: every flight was answered exactly once and learned; 1: not so; 130: stopped.
    """
    raise typer.Exit(run(Flood(rate) if flood else TwoThirds(rate), events=events, keep=keep))


def run(
    pace: FeedPace,
    *,
    events: int | None = None,
    keep: bool = False,
    example: Path = EXAMPLE_FOLDER,
    console: Console | None = None,
) -> int:
    """Run the whole demo; return 0, or 1 where an answer was missing or the worker died.

    `events` bounds the flights, `keep` leaves broker and worker up after the summary until Ctrl-C.
    Raises SettingsError where the broker or the sample is missing.
    """
    started_s = time.perf_counter()
    console = console or Console()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what goes wrong is raised, or seen as a stall
    folder = Path(tempfile.mkdtemp(prefix="headrace-demo-"))
    try:
        with interrupted_by_signals():
            _with_processes(Race(console, folder, started_s, pace), example, events, keep=keep)
    except KeyboardInterrupt:
        console.print("stopped: broker and worker are down")
        shutil.rmtree(folder, ignore_errors=True)
        return 130
    except HeadraceError as error:
        console.print(f"error: {error}", style="red", soft_wrap=True, highlight=False, markup=False)
        console.print(f"logs: {folder}/worker.log {folder}/broker.log", soft_wrap=True, highlight=False)
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def _with_processes(race: Race, example: Path, events: int | None, *, keep: bool) -> None:
    """Start broker and worker, run the race between them, stop both."""
    file = example / "pipeline.py"
    plan = [topic._replace(create=True) for topic in CATALOG.plan(events=1)]
    with EmbeddedBroker(log=race.folder / "broker.log") as broker:
        kafka = broker.kafka_settings().model_copy(update={"replication_factor": -1})  # the broker's own
        asyncio.run(ensure_topics(kafka, plan))
        with WorkerProcess(worker_command(file), kafka, race.folder) as worker:
            race.say(f"broker {kafka.bootstrap_servers}, worker http://127.0.0.1:{worker.port}/metrics")
            sample = read_sample(load_pipeline(file), example, events)  # while the worker imports River
            asyncio.run(race.run(worker, kafka, sample))
            if keep:
                race.stay(worker, kafka)
            code = worker.stop()
        if code != 0:
            raise BrokerError(
                f"the worker did not leave cleanly: exit code {code}", hint=f"read {worker.log}"
            )
    race.say_next(file)
