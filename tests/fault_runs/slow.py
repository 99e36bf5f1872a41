"""A broker behind a slow line for a while: what workers do meanwhile, and what they say of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from brokers.slow_link import SlowLink
from reading import Watch

from fault_runs.phases import Phase, phase_of
from fault_runs.run import FaultRun, Load, Report

WORKERS = 2
BEFORE_S, AFTER_S = 15.0, 20.0
"""At full speed."""
LOAD = Load(slice_records=60, ahead_max=30_000)
"""More than the slow line takes, whatever waits."""
SILENCE_MAX_S = 10.0
RSS_GROWTH_MAX_MB = 100.0
"""Of what is on its way and of what models and windows grow by meanwhile."""
LOG_LINES_MAX = 60
"""Of one worker in a minute."""


@dataclass
class SlowReport:
    """The figures of one run behind a slow line."""

    logs: Report
    phases: dict[str, Phase] = field(default_factory=dict)
    """`before`, `slow`, `after`."""

    def check(self) -> None:
        """Check that answers went on, that memory and logs were bounded, and that pages told of it."""
        before, slow, after = (self.phases[name] for name in ("before", "slow", "after"))
        assert 0 < slow.answers_per_s < before.answers_per_s, "the line was not slow"
        assert slow.waits.silence_s < SILENCE_MAX_S, f"silence of {slow.waits.silence_s:.1f} s"
        assert after.answers_per_s > slow.answers_per_s, "what waited was not made up for"
        assert slow.most("lag") > 2 * before.most("lag"), "no page told of the lag"
        assert slow.most("outage_s") == 0.0, "a page told of an outage where there was none"
        for number, lines in enumerate(slow.lines):
            assert lines.total() <= LOG_LINES_MAX * max(1.0, slow.seconds / 60), lines
            grown_mb = slow.samples[number][-1].rss_mb - before.samples[number][-1].rss_mb
            assert grown_mb < RSS_GROWTH_MAX_MB, f"worker {number} has grown by {grown_mb:.0f} MB"

    def line(self) -> str:
        """Return the figures as some lines."""
        phases = (f"{name} {phase.line()}" for name, phase in self.phases.items())
        return "\n  ".join([self.logs.line(), *phases])


class SlowRun:
    """A run whose workers' line to the broker is slow for a while."""

    def __init__(
        self, run: FaultRun, link: SlowLink, *, seconds: float, delay_s: float, bytes_per_s: float
    ) -> None:
        self.report = SlowReport(run.report)
        self._run, self._link = run, link
        self._seconds, self._delay_s, self._bytes_per_s = seconds, delay_s, bytes_per_s

    async def run(self) -> SlowReport:
        """Carry it out and judge the logs.  Raises AssertionError for what does not hold."""
        async with self._link.open():
            await self._run.under_load(self._slow)
        return self.report

    async def _slow(self, watch: Watch) -> None:
        phases = self.report.phases
        phases["before"] = await phase_of(self._run, self._link, BEFORE_S, watch)
        self._link.set(delay_s=self._delay_s, bytes_per_s=self._bytes_per_s)
        phases["slow"] = await phase_of(self._run, self._link, self._seconds, watch)
        self._link.set(delay_s=0.0, bytes_per_s=math.inf)
        phases["after"] = await phase_of(self._run, self._link, AFTER_S, watch)
