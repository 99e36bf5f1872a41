"""What workers do for some seconds, whatever their line to the broker is like, and what they say of it.

Lives here: pages, memory and log lines of each worker, answers and waits, as one phase.  Never here: what
happens to the line (`slow.py`, `outage.py`), whether the logs are right (`account.py`).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from brokers.slow_link import SlowLink
from reading import Watch
from running import Worker

from fault_runs.run import FaultRun, Report
from fault_runs.waits import Waits, quantile, waiting

SAMPLE_S = 1.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
RSS_GROWTH_MAX_MB = 100.0
"""Of what is on its way and of what models and windows grow by meanwhile."""
LOG_LINES_MAX = 60
"""Of one worker in a minute."""


class Sample(NamedTuple):
    """What one worker said at one moment, and its memory."""

    rss_mb: float
    lag: int
    outage_s: float
    stalled_s: float
    ready: bool


class Phase(NamedTuple):
    """Some seconds at one speed of the line."""

    seconds: float
    answers: int
    """That count, of all workers."""
    sent_kb: int
    read_kb: int
    """Of all workers, over the line."""
    waits: Waits
    samples: list[list[Sample]]
    """Of each worker."""
    lines: list[Counter[str]]
    """What each worker has logged meanwhile, by what it is about."""

    @property
    def answers_per_s(self) -> float:
        return self.answers / self.seconds

    def most(self, name: str) -> float:
        """Return the most that any worker has said under a name."""
        return max(getattr(one, name) for samples in self.samples for one in samples)

    def line(self) -> str:
        """Return the figures as one line."""
        seconds, asked = self.waits.seconds, list(itertools.chain(*self.samples))
        return (
            f"{self.seconds:.0f} s: {self.answers_per_s:.0f} answers/s,"
            f" {self.sent_kb / self.seconds:.0f} KB/s there, {self.read_kb / self.seconds:.0f} KB/s back;"
            f" an answer after {quantile(seconds, 0.5):.2f} s (median), {quantile(seconds, 0.99):.2f} s"
            f" (p99); longest silence {self.waits.silence_s:.1f} s;"
            f" events waiting {max(self.waits.backlogs)};"
            f" told at most: lag {self.most('lag')}, outage {self.most('outage_s'):.0f} s,"
            f" stalled {self.most('stalled_s'):.0f} s;"
            f" ready {sum(one.ready for one in asked)} of {len(asked)}; memory"
            f" {', '.join(f'{each[0].rss_mb:.0f} to {each[-1].rss_mb:.0f} MB' for each in self.samples)};"
            f" lines {dict(sum(self.lines, Counter()))}"
        )


async def phase_of(run: FaultRun, link: SlowLink, seconds: float, watch: Watch) -> Phase:
    """Ask the workers once a second for so long, and count what happens meanwhile."""
    workers = run.workers
    began_s = time.monotonic()
    answers, carried = watch.counted(run.predictions), list(link.carried_bytes)
    logged = [lines_of(worker) for worker in workers]
    samples: list[list[Sample]] = [[] for _ in workers]
    async with waiting(run.published_s, lambda: watch.counts.get(run.predictions, {})) as waits:
        while time.monotonic() < began_s + seconds:
            for worker, those in zip(workers, samples, strict=True):
                those.append(await asyncio.to_thread(sample_of, worker))
            await asyncio.sleep(SAMPLE_S)
    sent, read = (now - then for now, then in zip(link.carried_bytes, carried, strict=True))
    return Phase(
        seconds=time.monotonic() - began_s,
        answers=watch.counted(run.predictions) - answers,
        sent_kb=sent // 1024,
        read_kb=read // 1024,
        waits=waits,
        samples=samples,
        lines=[lines_of(worker) - before for worker, before in zip(workers, logged, strict=True)],
    )


def sample_of(worker: Worker) -> Sample:
    """Ask a worker that runs."""
    assert worker.process is not None
    assert worker.process.poll() is None, f"it has died by itself: {worker.said()}"
    assert worker.get("/livez")[0] == 200, worker.said()
    metrics = worker.metrics()
    pages = int(Path(f"/proc/{worker.process.pid}/statm").read_text(encoding="ascii").split()[1])
    return Sample(
        rss_mb=pages * PAGE_BYTES / 1e6,
        lag=round(sum(n for name, n in metrics.items() if name.startswith("headrace_consumer_lag_records"))),
        outage_s=metrics["headrace_broker_outage_seconds"],
        stalled_s=metrics["headrace_stalled_seconds"],
        ready=worker.get("/readyz")[0] == 200,
    )


def check_bounds(number: int, before: Phase, meanwhile: Phase, last: Phase) -> None:
    """Check that one worker wrote a bounded log meanwhile, and has not grown to the end of the last phase."""
    lines = meanwhile.lines[number]
    assert lines.total() <= LOG_LINES_MAX * max(1.0, meanwhile.seconds / 60), lines
    grown_mb = last.samples[number][-1].rss_mb - before.samples[number][-1].rss_mb
    assert grown_mb < RSS_GROWTH_MAX_MB, f"worker {number} has grown by {grown_mb:.0f} MB"


def line_of(logs: Report, phases: Mapping[str, Phase]) -> str:
    """Return the figures of a run in phases as some lines."""
    return "\n  ".join([logs.line(), *(f"{name} {phase.line()}" for name, phase in phases.items())])


def lines_of(worker: Worker) -> Counter[str]:
    """Count the lines of a worker's log, by what they are about; what is no JSON counts as itself."""
    lines = worker.log.read_text(errors="replace").splitlines()
    return Counter(
        str(json.loads(line).get("event"))[:60] if line.startswith("{") else line[:60] for line in lines
    )
