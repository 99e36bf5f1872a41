"""The command: a worker, its load, the troubles of the course, and what was read of it.

Lives here: what happens at the same time, the report.  Never here: events, readings, the picture.

    PYTHONPATH=tests python -m brokers python -m loadtest.soak --minutes 20 --json soak.json --svg soak.svg
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from engine.settings import KafkaSettings, load_settings
from loadtest.bench.feed import LabelFeed
from loadtest.bench.openloop import LabelLoad, Load, LoadOutcome, OpenLoop, connected_producer
from loadtest.bench.sandbox import Sandbox, sandbox
from loadtest.signals import interrupted_by_signals
from loadtest.soak.course import Phase, SoakFeed, phases
from loadtest.soak.picture import drawn
from loadtest.soak.readings import FIGURES, PhaseFigures, WorkerReading, figures_by_phase, reading_of
from topics.codec import encode_json

PIPELINE = Path(__file__).with_name("pipeline.py")
LABEL_DELAY_S = 1.0
FLOOD_LABELS = 10
"""Labels of events that never come, for each event."""
FLOOD_EVERY_S = 0.1
PATIENCE_S = 120.0
"""What was not learned while learning was paused is caught up meanwhile."""


class Soak:
    """One soak of a sandboxed worker."""

    def __init__(self, own: Sandbox, kafka: KafkaSettings, course: Sequence[Phase], *, rate: float) -> None:
        self._own, self._kafka, self._course, self._rate = own, kafka, course, rate
        self._began_s = 0.0
        self.readings: list[WorkerReading] = []

    async def run(self, every_s: float) -> LoadOutcome:
        """Load the worker through the whole course; read it every `every_s`."""
        pipeline, run = self._own.pipeline, f"soak-{time.time_ns():x}"
        feed = SoakFeed(self._course, rate=self._rate, run=run)
        labels = LabelFeed(pipeline.labels, pipeline.task, rows=feed.rows)
        loop = OpenLoop(
            self._kafka,
            pipeline_name=pipeline.name,
            events=pipeline.catalog["events"],
            predictions=pipeline.catalog["predictions"],
            feed=feed,
            labels=LabelLoad(pipeline.catalog["labels"], labels, LABEL_DELAY_S),
        )
        self._began_s = time.monotonic()
        beside = [asyncio.create_task(self._read(every_s)), asyncio.create_task(self._trouble(run))]
        try:
            outcome = await loop.run(Load(self._rate, self._course[-1].ends_s, 0.0, PATIENCE_S))
        finally:
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)
        for task in beside:
            if not task.cancelled():
                task.result()
        return outcome

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._began_s

    def _phase(self, seconds: float) -> str:
        return next((one.name for one in self._course if seconds < one.ends_s), self._course[-1].name)

    async def _read(self, every_s: float) -> None:
        """Read the worker again and again; one that does not answer within its deadline leaves a gap."""
        while True:
            self._own.worker.check()
            text = await asyncio.to_thread(self._own.worker.page, "/metrics")
            seconds = self._seconds
            if text is not None:
                before = self.readings[-1] if self.readings else None
                worker = self._own.worker
                read = reading_of(
                    worker.pid,
                    text,
                    worker.state_dir,
                    seconds=seconds,
                    phase=self._phase(seconds),
                    before=before,
                )
                self.readings.append(read)
            await asyncio.sleep(every_s)

    async def _trouble(self, run: str) -> None:
        """Do what the phases have beside their events."""
        async with connected_producer(self._kafka) as producer:
            for phase in self._course:
                if phase.name == "label flood":
                    await self._until(phase.begins_s)
                    await self._flood(producer, phase, run)
                elif phase.name == "no learning":
                    await self._until(phase.begins_s)
                    await self._command(producer, "pause")
                    await self._until(phase.ends_s)
                    await self._command(producer, "resume")

    async def _until(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds - self._seconds))

    async def _flood(self, producer: Any, phase: Phase, run: str) -> None:
        topic, names = self._own.pipeline.catalog["labels"], self._own.pipeline.labels.names
        a_time = int(self._rate * FLOOD_LABELS * FLOOD_EVERY_S)
        sent = 0
        while self._seconds < phase.ends_s:
            now_ms = time.time_ns() // 1_000_000
            for number in range(sent, sent + a_time):
                label = (f"{run}-never-{number}", True, now_ms)
                value = encode_json(dict(zip(names, label, strict=True)))
                await producer.send(topic, value, b"flood", timestamp_ms=now_ms)
            sent += a_time
            await asyncio.sleep(FLOOD_EVERY_S)

    async def _command(self, producer: Any, command: str) -> None:
        now_ms = time.time_ns() // 1_000_000
        told = {"command_id": f"soak-{command}", "command": command, "time": now_ms, "actor": "soak"}
        topic = self._own.pipeline.catalog["commands"]
        await producer.send_and_wait(topic, encode_json(told), b"soak", timestamp_ms=now_ms)


class Report(msgspec.Struct, frozen=True):
    """A soak as JSON."""

    rate: float
    seconds: float
    sent: int
    lost: int
    duplicated: int
    mismatched: int
    latency_ms: dict[str, float]
    """From due to read, over the whole course."""
    phases: list[PhaseFigures]
    readings: list[WorkerReading]


def main(
    *,
    minutes: Annotated[float, typer.Option(min=0.5, help="How long.")] = 20.0,
    rate: Annotated[float, typer.Option(min=1.0, help="Events per second.")] = 200.0,
    every: Annotated[float, typer.Option(min=0.5, help="Seconds between two readings.")] = 5.0,
    json: Annotated[Path | None, typer.Option(help="Write every reading here.")] = None,
    svg: Annotated[Path | None, typer.Option(help="Draw them here.")] = None,
) -> None:
    """Run a worker through the course; tell what it takes, phase by phase.

    Exit code 1: an answer is lost or wrong.
    """
    kafka, course = load_settings(None).kafka, phases(60 * minutes)
    with interrupted_by_signals(), sandbox(PIPELINE, kafka) as own:
        own.wait_until_ready()
        soak = Soak(own, kafka, course, rate=rate)
        outcome = asyncio.run(soak.run(every))
    account, found = outcome.account, figures_by_phase(soak.readings, course)
    report = Report(
        rate,
        course[-1].ends_s,
        account.sent,
        account.lost,
        account.duplicated,
        account.mismatched,
        outcome.latency.summary_ms(),
        found,
        soak.readings,
    )
    if json is not None:
        json.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
    if svg is not None:
        title = f"{rate:g} events/s for {minutes:g} min: what a worker takes"
        svg.write_text(drawn(soak.readings, course, title))
    _print(report)
    if not account.sound:
        raise typer.Exit(1)


def _print(report: Report) -> None:
    table = Table(title=f"{report.sent:,} events, {report.lost} lost, {report.duplicated} answered again")
    table.add_column("median of the last half of a phase (growth an hour)")
    for phase in report.phases:
        table.add_column(phase.phase, justify="right")
    for figure in FIGURES:
        cells = [f"{one.medians[figure]:,.6g} ({one.slopes_per_hour[figure]:+,.6g})" for one in report.phases]
        table.add_row(figure, *cells)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
