"""One load after the other on one copy of a pipeline: each measured by its own ledger, the worker stays warm.

Lives here: what a run needs from the copy, the search for the highest rate.  Never here: the open loop
(`openloop.py`), the verdict (`report.py`), which rate comes next (`slo.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from engine.definition.pipeline import Pipeline
from engine.settings import KafkaSettings
from loadtest.bench.feed import Feed, LabelFeed
from loadtest.bench.openloop import LabelLoad, Load, LoadOutcome, OpenLoop
from loadtest.bench.report import report
from loadtest.bench.sandbox import Sandbox
from loadtest.bench.slices import Usage
from loadtest.bench.slo import STEPS_MAX, RateStep, SloBound, broken, next_rate, sustained_rate

__all__ = ["CopyRuns", "RateSearch", "found_rate", "run_load"]


class RateSearch(NamedTuple):
    """What a search came to."""

    rate: float | None
    """The highest that held; None where none did."""
    steps: tuple[RateStep, ...]
    reports: tuple[dict[str, Any], ...]
    """Of each step."""


class CopyRuns:
    """Runs on the worker of a sandbox, told under the name of `definition`.

    `rows` are the events, as plain JSON values.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        own: Sandbox,
        definition: Pipeline,
        *,
        rows: Sequence[dict[str, Any]],
        label_delay_ms: int,
        seed: int,
    ) -> None:
        self._kafka, self._own, self._definition, self._rows = kafka, own, definition, rows
        self._label_delay_ms, self._seed = label_delay_ms, seed
        self._learned = 0
        """By the end of the last run: the worker counts from its start."""

    def run(self, plan: Load) -> dict[str, Any]:
        """Return the report of one load.  Raises BrokerError where the worker dies or Kafka refuses."""
        pipeline = self._own.pipeline
        schedule = plan.schedule
        feed = Feed(pipeline.events, self._rows, run=f"bench-{time.time_ns():x}", is_hot=schedule.is_hot)
        labels = None
        if pipeline.labels.topic is not None:
            made_up = LabelFeed(
                pipeline.labels,
                pipeline.task,
                rows=feed.rows,
                seed=self._seed,
                is_drifted=schedule.is_drifted,
            )
            labels = LabelLoad(pipeline.labels.topic, made_up, self._label_delay_ms / 1_000)
        outcome = run_load(self._kafka, plan, pipeline, feed, labels, self._own.usage)
        due = outcome.labels if labels is not None else outcome.account.answered
        learned = self._own.learned(self._learned + due, plan.patience_s)
        found = report(plan, self._definition, outcome, learned=learned - self._learned)
        self._learned = learned
        return found


def found_rate(
    run: Callable[[Load], dict[str, Any]],
    plan: Load,
    bounds: Sequence[SloBound],
    tell: Callable[[RateStep], None],
    *,
    steps_max: int = STEPS_MAX,
) -> RateSearch:
    """Search the highest rate at which `run` keeps the bounds, from that of `plan` on; `tell` hears steps."""
    steps: list[RateStep] = []
    reports = []
    while (rate := next_rate(steps, plan.rate, steps_max=steps_max)) is not None:
        report_of_step = run(plan._replace(rate=rate))
        why = broken(bounds, report_of_step)
        steps.append(RateStep(rate, not why, why))
        reports.append(report_of_step)
        tell(steps[-1])
    return RateSearch(sustained_rate(steps), tuple(steps), tuple(reports))


def run_load(
    kafka: KafkaSettings,
    plan: Load,
    pipeline: Pipeline,
    feed: Feed,
    labels: LabelLoad | None = None,
    read_usage: Callable[[], Usage | None] = lambda: None,
) -> LoadOutcome:
    """Return what came of one load on a pipeline's topics.  Raises BrokerError."""
    loop = OpenLoop(
        kafka,
        pipeline_name=pipeline.name,
        events=pipeline.catalog["events"],
        predictions=pipeline.catalog["predictions"],
        feed=feed,
        labels=labels,
        read_usage=read_usage,
    )
    try:
        import uvloop  # noqa: PLC0415 - not on every system
    except ModuleNotFoundError:
        return asyncio.run(loop.run(plan))
    outcome: LoadOutcome = uvloop.run(loop.run(plan))
    return outcome
