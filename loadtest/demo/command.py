"""`headrace demo`: a broker, a worker, three months of flights or another scenario, and a race to watch.

Lives here: options, the processes, the exit code, the commands to try beside the demo and after it, which
work as they are printed.  Never here: the run itself (`race.py`).

Whatever was started is stopped by its own process id, in the reverse order, also on Ctrl-C.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
import shutil
import sys
import tempfile
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from engine.definition.file import load_pipeline
from engine.kafka.embedded import EmbeddedBroker
from engine.kafka.topic_admin import ensure_topics
from engine.local.worker import WorkerProcess, worker_command
from loadtest.demo.race import DemoRace, FeedPace, Flood, TwoThirds
from loadtest.demo.scenarios import FLIGHTS, SCENARIOS, Scenario
from loadtest.signals import interrupted_by_signals
from topics.catalog import Catalog
from topics.errors import BrokerError, HeadraceError

__all__ = ["commands_after", "demo", "run"]

RATE = 10_000.0
"""Ceiling in events per second, beyond one worker: by default the worker sets the pace."""
LOOK_S = 0.5
"""How often it is looked whether a worker that is kept up is still there."""
DECISIONS_SHOWN_MAX = 5
"""`tail` waits for as many as it is asked for: never more than there are."""


class Scenarios(StrEnum):
    """What there is to see."""

    flights = "flights"
    fraud = "fraud"
    drift = "drift"
    bandit = "bandit"


def demo(
    *,
    scenario: Annotated[
        Scenarios, typer.Option(help="flights: real ones; fraud, drift, bandit: made up, with a plan.")
    ] = Scenarios.flights,
    events: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many events; default: all.")
    ] = None,
    rate: Annotated[float, typer.Option(min=1.0, help="Events per second at most.")] = RATE,
    flood: Annotated[
        bool,
        typer.Option("--flood", help="Publish as fast as the worker takes it, not at two thirds of that."),
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave broker and worker up until Ctrl-C.")] = False,
) -> None:
    """Race models on real flights or another scenario: embedded broker, one worker, a page, a live table.

    Exit code 0: every event was answered exactly once and learned; 1: not so; 130: stopped.
    """
    pace = Flood(rate) if flood else TwoThirds(rate)
    raise typer.Exit(run(pace, scenario=SCENARIOS[scenario], events=events, keep=keep))


def run(
    pace: FeedPace,
    *,
    scenario: Scenario = FLIGHTS,
    events: int | None = None,
    keep: bool = False,
    console: Console | None = None,
) -> int:
    """Run the whole demo; return 0, or 1 where an answer was missing or the worker died.

    `events` bounds the events, `keep` leaves broker and worker up after the summary until Ctrl-C.
    Raises SettingsError where the broker or the sample is missing.
    """
    started_s = time.perf_counter()
    console = console or Console()
    # What goes wrong is raised, or seen as a stall; a level would keep the reason of a refusal from `connect`
    logging.getLogger("aiokafka").addHandler(logging.NullHandler())
    folder = Path(tempfile.mkdtemp(prefix="headrace-demo-"))
    try:
        with interrupted_by_signals():
            _with_processes(DemoRace(scenario, console, folder, started_s, pace), events, keep=keep)
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


def _with_processes(race: DemoRace, events: int | None, *, keep: bool) -> None:
    """Start broker and worker, run the race between them, stop both."""
    scenario = race.scenario
    file, catalog = scenario.folder / "pipeline.py", scenario.catalog
    plan = [topic._replace(create=True) for topic in catalog.plan(events=1)]
    with EmbeddedBroker(log=race.folder / "broker.log") as broker:
        kafka = broker.kafka_settings().model_copy(update={"replication_factor": -1})  # the broker's own
        asyncio.run(ensure_topics(kafka, plan))
        with WorkerProcess(worker_command(file), kafka, race.folder) as worker:
            race.say(
                f"broker {kafka.bootstrap_servers}; the page of the worker: http://127.0.0.1:{worker.port}/"
            )
            race.say(f"{scenario.name}: {scenario.shows}")
            sample = scenario.sample(
                load_pipeline(file), scenario.folder, events
            )  # while the worker imports River
            figures = asyncio.run(race.run(worker, kafka, sample))
            if keep:
                race.say("\nbroker and worker stay up; in another terminal, in this folder:")
                decisions = len(figures.decisions)
                for line in commands_beside(catalog, kafka.bootstrap_servers, worker.port, decisions):
                    race.say(f"  {line}")
                race.say("Ctrl-C stops them")
                while True:
                    time.sleep(LOOK_S)
                    worker.check()
            code = worker.stop()
        if code != 0:
            raise BrokerError(
                f"the worker did not leave cleanly: exit code {code}", hint=f"read {worker.log}"
            )
    race.say("\nnext:")
    for line in commands_after(scenario):
        race.say(f"  {line}")


def commands_beside(catalog: Catalog, servers: str, port: int, decisions: int) -> list[str]:
    """Return commands for a broker at `servers` and a worker whose pages are on `port`."""
    headrace, where = _headrace(), f"--from-beginning --bootstrap-servers {servers}"
    found = [
        f"{headrace} tail {catalog['predictions']} -n 3 {where}",
        f"curl -s http://127.0.0.1:{port}/metrics | grep headrace_model_score",
    ]
    if decisions:
        count = min(decisions, DECISIONS_SHOWN_MAX)
        found.insert(0, f"{headrace} tail {catalog['decisions']} -n {count} {where}")
    return found


def commands_after(scenario: Scenario) -> list[str]:
    """Return commands for a scenario's file, with the two files beside it where there are any."""
    headrace = _headrace()
    names = ("pipeline.py", "departures.jsonl.gz", "arrivals.jsonl.gz")
    paths = [scenario.folder / name for name in names]
    file, events, labels = (shlex.quote(_from_here(path)) for path in paths)
    check = f"{headrace} check {file}"
    if not paths[1].exists():
        return [check, f"{headrace} demo --scenario {scenario.name} --keep"]
    return [
        check,
        f"{headrace} backtest {file} --events {events} --labels {labels} --warmup 10000",
        f"{headrace} demo --keep",
    ]


def _headrace() -> str:
    """Return how a shell finds this `headrace`: it need not be on the path."""
    script = Path(sys.executable).with_name("headrace")
    found = shutil.which("headrace")
    if found is not None and Path(found).absolute() == script.absolute():
        return "headrace"
    if not script.exists():
        return shlex.join([sys.executable, "-m", "headrace"])
    return shlex.quote(_from_here(script))


def _from_here(path: Path) -> str:
    """Return a path as short as the working directory allows."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
