"""A broker that is gone for a while: its line is cut under load, and mended."""

from __future__ import annotations

from dataclasses import dataclass, field

from brokers.slow_link import SlowLink
from reading import Watch

from fault_runs.phases import Phase, check_bounds, line_of, phase_of
from fault_runs.run import FaultRun, Load, Report

WORKERS = 2
BEFORE_S, AFTER_S = 15.0, 60.0
"""With a broker."""
LOAD = Load(slice_records=15, ahead_max=30_000)
"""Less than workers take, so that what waits is made up for."""
NOTICED_S = 10.0
"""An outage counts from a worker's last answer, and a page is asked once a second."""


@dataclass
class OutageReport:
    """The figures of one run without a broker in the middle."""

    logs: Report
    phases: dict[str, Phase] = field(default_factory=dict)
    """`before`, `cut`, `after`."""

    def check(self) -> None:
        """Check that workers held still and said so, and went on by themselves."""
        before, cut, after = (self.phases[name] for name in ("before", "cut", "after"))
        assert before.answers_per_s > 0
        assert cut.answers <= before.answers_per_s, "the line was not cut"
        assert cut.most("outage_s") > cut.seconds - NOTICED_S, "no page told of the outage"
        for number, samples in enumerate(cut.samples):
            assert not samples[-1].ready, f"worker {number} said that it was ready"
            check_bounds(number, before, cut, after)
            assert after.samples[number][-1].ready, f"worker {number} has not come back"
        assert after.answers > cut.waits.backlogs[-1], "what waited was not made up for"

    def line(self) -> str:
        """Return the figures as some lines."""
        return line_of(self.logs, self.phases)


class OutageRun:
    """A run whose workers have no broker for a while."""

    def __init__(self, run: FaultRun, link: SlowLink, *, seconds: float) -> None:
        self.report = OutageReport(run.report)
        self._run, self._link, self._seconds = run, link, seconds

    async def run(self) -> OutageReport:
        """Carry it out and judge the logs.  Raises AssertionError for what does not hold."""
        async with self._link.open():
            await self._run.under_load(self._cut)
        return self.report

    async def _cut(self, watch: Watch) -> None:
        phases = self.report.phases
        phases["before"] = await phase_of(self._run, self._link, BEFORE_S, watch)
        self._link.cut()
        phases["cut"] = await phase_of(self._run, self._link, self._seconds, watch)
        self._link.mend()
        phases["after"] = await phase_of(self._run, self._link, AFTER_S, watch)
