"""What a load run comes to: was the rate sustained, and the report as JSON and as a table.

Lives here: the judgement, its words, what it was measured on.  Never here: measuring (`openloop.py`,
`ledger.py`).

Strategy: a system sustains a rate when what it has not answered does not grow.  So it is judged by how many
events had no answer when the last one was sent: more than arrive in one second, and it is behind, whatever
the sender did.  Only where it is not behind can a late sender mean that the rate was never offered.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table

from engine.definition.pipeline import Pipeline
from loadtest.bench.openloop import Load, LoadOutcome
from loadtest.bench.slices import Slice, usage_figures

__all__ = [
    "Limit",
    "LoadVerdict",
    "Measured",
    "cores",
    "judge",
    "knee_per_s",
    "machine",
    "print_load",
    "report",
]

Limit = Literal["worker", "sender", ""]

BEHIND_S = 1.0
"""Answers that take longer are a queue."""
BEHIND_EVENTS_MIN = 10
"""Fewer events than this are no queue at any rate."""
SENDER_LATE_MS = 200.0
"""A sender later than this at its 99th percentile has not offered the rate."""


class Measured(NamedTuple):
    """The figures of a run."""

    rate: float
    """Events per second that were to be offered."""
    offered: float
    """Events per second that were sent."""
    answered: float
    """Events per second that were answered, until the last answer."""
    behind: int
    """Events without an answer when the last one was sent."""
    lost: int
    """Events without an answer at all."""
    p99_ms: float | None
    """From due to read; None where nothing was timed."""
    sender_p99_ms: float | None
    """From due to sent."""
    unlearned: int = 0
    """Labels sent and not learned when the load test stopped waiting for them."""
    hold_s: float = 0.0
    """How long the definition itself holds an answer back: windows by other keys wait for `grace`."""


class LoadVerdict(NamedTuple):
    """The conclusion, in a sentence."""

    sustained: bool
    limit: Limit
    """The parts that did not keep up; empty where the rate was sustained."""
    text: str


def judge(run: Measured) -> LoadVerdict:
    """Return the verdict on a run.

    >>> judge(Measured(800, 799.8, 119.2, behind=10_200, lost=0, p99_ms=14_000, sender_p99_ms=700)).limit
    'worker'
    >>> judge(Measured(100, 100, 99.9, behind=3, lost=0, p99_ms=40, sender_p99_ms=2)).text
    'sustained: offered 100.0/s, answered 99.9/s, 3 events behind at the end, p99 40 ms'
    """
    p99 = "nothing timed" if run.p99_ms is None else f"p99 {run.p99_ms:,.0f} ms"
    figures = (
        f"offered {run.offered:,.1f}/s, answered {run.answered:,.1f}/s, "
        f"{run.behind:,} events behind at the end, {p99}"
    )
    behind_max = max(BEHIND_EVENTS_MIN, run.rate * (run.hold_s + BEHIND_S))
    if run.lost:
        return LoadVerdict(
            False, "worker", f"NOT sustained: {run.lost:,} events were never answered; {figures}"
        )
    if run.behind > behind_max:
        return LoadVerdict(False, "worker", f"NOT sustained, the worker cannot keep up: {figures}")
    if run.unlearned:
        return LoadVerdict(
            False, "worker", f"NOT sustained: {run.unlearned:,} labels were not learned in time; {figures}"
        )
    if run.sender_p99_ms is not None and run.sender_p99_ms > SENDER_LATE_MS:
        late = f"the sender was {run.sender_p99_ms:,.0f} ms late at its p99, the worker kept up"
        return LoadVerdict(False, "sender", f"NOT offered: {late}: send from a machine of its own; {figures}")
    return LoadVerdict(True, "", f"sustained: {figures}")


def report(plan: Load, pipeline: Pipeline, outcome: LoadOutcome, *, learned: int | None) -> dict[str, Any]:
    """Return the result as one plain object; `learned` is None where the worker is not asked."""
    account = outcome.account
    latency, lateness = outcome.latency.summary_ms(), outcome.lateness.summary_ms()
    answered = account.answered / outcome.seconds if outcome.seconds else 0.0
    offered = account.sent / (outcome.sent_s + 1 / plan.rate)
    due = 0 if learned is None else outcome.labels if pipeline.labels.topic is not None else account.answered
    verdict = judge(
        Measured(
            plan.rate,
            offered,
            answered,
            outcome.behind,
            account.lost,
            latency.get("p99"),
            lateness.get("p99"),
            unlearned=due - (learned or 0),
            hold_s=pipeline.grace_ms / 1_000 if pipeline.stages is not None else 0.0,
        )
    )
    return {
        "pipeline": pipeline.name,
        "verdict": verdict._asdict(),
        "scenario": plan.scenario,
        "rate": plan.rate,
        "knee_per_s": knee_per_s(plan, outcome.slices) if plan.scenario == "ramp" else None,
        "duration_s": plan.duration_s,
        "warmup_s": plan.warmup_s,
        "events": account.sent,
        "labels": outcome.labels,
        "learned": learned,
        "answered": account.answered,
        "behind": outcome.behind,
        "lost": account.lost,
        "duplicated": account.duplicated,
        "mismatched": account.mismatched,
        "foreign": account.foreign,
        "notes": list(account.notes),
        "offered_per_s": round(offered, 1),
        "throughput_per_s": round(answered, 1),
        "latency_ms": latency,
        "timed": len(outcome.latency),
        "sender_late_ms": lateness,
        "workers": usage_figures(outcome.slices),
        "slices": msgspec.to_builtins(outcome.slices),
        "machine": machine(),
        "cores": cores(),
    }


def knee_per_s(plan: Load, slices: Sequence[Slice]) -> float | None:
    """Return the rate at which answers began to take more than BEHIND_S, None where they never did."""
    for one in slices:
        rate = plan.schedule.rate_at(one.at_s)
        if one.waiting > max(BEHIND_EVENTS_MIN, rate * BEHIND_S):
            return round(rate, 1)
    return None


def print_load(name: str, found: dict[str, Any]) -> None:
    """Print a report on the pipeline `name` as a table."""
    console = Console(soft_wrap=True)
    table = Table(
        title=f"{name}: {found['rate']:g} events/s for {found['duration_s']:g} s, {found['scenario']}"
    )
    for column in ("ms", "p50", "p90", "p99", "p99.9", "max", "mean"):
        table.add_column(column, justify="right" if column != "ms" else "left")
    for title, part in (("due to read", "latency_ms"), ("of it: sender late", "sender_late_ms")):
        summary = found[part]
        levels = ("p50", "p90", "p99", "p99.9", "max", "mean")
        table.add_row(title, *(f"{summary[level]:.2f}" if summary else "-" for level in levels))
    console.print(table)
    console.print(
        f"events {found['events']}  answered {found['answered']} ({found['throughput_per_s']:g}/s)  "
        f"lost {found['lost']}  duplicated {found['duplicated']}  mismatched {found['mismatched']}  "
        f"foreign {found['foreign']}"
    )
    if found["learned"] is not None:
        console.print(f"labels {found['labels']}  learned {found['learned']}")
    if found["knee_per_s"] is not None:
        console.print(f"answers began to take more than {BEHIND_S:g} s at {found['knee_per_s']:g} events/s")
    if (cpu_ms := found["workers"]["cpu_ms_per_answer"]) is not None:
        console.print(
            f"the worker took {cpu_ms:.3f} ms of processor time an answer, learning included, "
            f"and {found['workers']['rss_mb_max']:.0f} MB at most"
        )
    for note in found["notes"]:
        console.print(f"  mismatch: {note}", markup=False)
    console.print(
        f"on {found['machine']}; sender and reader share them with whatever of broker and worker runs here"
    )
    console.print(found["verdict"]["text"], style="green" if found["verdict"]["sustained"] else "bold red")


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> str:
    """Return one line: processors, their name, Python."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    return f"{cores()} x {name}, Python {platform.python_version()}"
