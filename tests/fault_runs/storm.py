"""A rebalance every few seconds: one member leaves and joins again, whatever the others are doing."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from reading import Watch
from running import Worker

from fault_runs.run import FaultRun, Load, Report
from fault_runs.waits import Waits, quantile, waiting

WORKERS = 3
"""Two that stay, and the last one, which comes and goes."""
LOAD = Load(ahead_max=4_000)
"""What waits for its answer while partitions move is published all the same."""

Leaving = Literal["SIGTERM", "SIGKILL", "SIGSTOP"]
"""A frozen member has left once its session is over."""


def leavings(seed: int, seconds: float, every_s: float) -> tuple[Leaving, ...]:
    """Return how the member leaves each time, so that it leaves or joins every `every_s`.

    >>> leavings(1, 600, 10) == leavings(1, 600, 10), len(leavings(1, 600, 10))
    (True, 30)
    >>> sorted(set(leavings(1, 600, 10)))
    ['SIGKILL', 'SIGSTOP', 'SIGTERM']
    """
    draw = random.Random(seed)
    return tuple(
        draw.choice(("SIGTERM", "SIGKILL", "SIGSTOP")) for _ in range(max(1, round(seconds / every_s / 2)))
    )


@dataclass
class StormReport:
    """The figures of one storm."""

    logs: Report
    moves: int = 0
    """How often the member has left or joined."""
    stormed_s: float = 0.0
    progress: list[int] = field(default_factory=list)
    """Answers that count between two moves."""
    waits: Waits = field(default_factory=Waits)

    def check(self) -> None:
        """Check that it was a storm, and that answers went on in it."""
        assert self.logs.rebalances >= self.moves, "a move brought no rebalance"
        assert self.logs.restores > 0, "no partition was restored in the middle of its log"
        assert self.logs.replayed > 0, "no takeover found anything to leave out"
        assert min(self.progress) > 0, f"no progress between two moves: {self.progress}"

    def line(self) -> str:
        """Return the figures as one line."""
        waits, logs = self.waits, self.logs
        return (
            f"storm: {self.moves} moves in {self.stormed_s:.0f} s; answers between two of them: at least"
            f" {min(self.progress, default=0)}, median {quantile(self.progress, 0.5)}; takeovers:"
            f" {logs.claimed} claimed, {logs.kept} kept, {logs.given_up} given up; an answer after"
            f" {quantile(waits.seconds, 0.5):.2f} s (median), {quantile(waits.seconds, 0.99):.2f} s (p99),"
            f" {max(waits.seconds, default=0.0):.2f} s (most); longest silence {waits.silence_s:.1f} s;"
            f" events waiting: {quantile(waits.backlogs, 0.99)} (p99), {max(waits.backlogs, default=0)}"
            f" (most);"
            f" {logs.line()}"
        )


class Storm:
    """A storm over the workers of a run."""

    def __init__(self, run: FaultRun, leaving: Sequence[Leaving], every_s: float) -> None:
        """`every_s` is longer than a session, or a frozen member would never leave."""
        assert every_s * 1_000 > run.kafka.session_timeout_ms
        self.report = StormReport(run.report)
        self._run = run
        self._leaving, self._every_s = tuple(leaving), every_s
        self._answers = 0
        """That counted at the last move."""

    async def run(self) -> StormReport:
        """Let it storm and judge the logs.  Raises AssertionError for what does not hold."""
        await self._run.under_load(self._storm)
        return self.report

    async def _storm(self, watch: Watch) -> None:
        """Let the member leave and join by the clock: it waits for nobody, and nobody for it."""
        member = self._run.workers[-1]
        began_s = time.monotonic()
        async with waiting(
            self._run.published_s, lambda: watch.counts.get(self._run.predictions, {})
        ) as waits:
            self.report.waits = waits
            for how in self._leaving:
                await self._next_move(began_s, watch)
                await _leave(member, how)
                await self._next_move(began_s, watch)
                _join(member, how)
            self.report.stormed_s = time.monotonic() - began_s
            await self._run.settled()

    async def _next_move(self, began_s: float, watch: Watch) -> None:
        """Wait until the clock says so; note how many answers have come since the last move."""
        due_s = began_s + (self.report.moves + 1) * self._every_s
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        for worker in self._run.workers:
            process = worker.process
            assert process is None or process.poll() is None, f"it has died by itself: {worker.said()}"
        answers = watch.counted(self._run.predictions)
        self.report.progress.append(answers - self._answers)
        self.report.moves += 1
        self._answers = answers


async def _leave(member: Worker, how: Leaving) -> None:
    match how:
        case "SIGTERM":
            assert await member.stop() == 0, member.said()
        case "SIGKILL":
            member.kill()
        case "SIGSTOP":
            member.send(signal.SIGSTOP)


def _join(member: Worker, how: Leaving) -> None:
    if how == "SIGSTOP":
        member.send(signal.SIGCONT)
    else:
        member.start()
