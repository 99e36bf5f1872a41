"""A broker behind a slow line for a while: what workers do meanwhile, and what they say of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from brokers.slow_link import SlowLink
from reading import Watch

from fault_runs.phases import Phase, check_bounds, line_of, phase_of
from fault_runs.run import FaultRun, Load, Report

WORKERS = 2
BEFORE_S, AFTER_S = 15.0, 20.0
"""At full speed."""
LOAD = Load(slice_records=60, ahead_max=30_000)
"""More than the slow line takes, whatever waits."""
SILENCE_MAX_S = 10.0


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
        for number in range(len(slow.lines)):
            check_bounds(number, before, slow, slow)

    def line(self) -> str:
        """Return the figures as some lines."""
        return line_of(self.logs, self.phases)


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
