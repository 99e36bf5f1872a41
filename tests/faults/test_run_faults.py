"""Seeded faults, one run a store at least: what they are is in `fault_runs`, and so is how to run more seeds.

A seed that fails is run again by the command in `fault_runs`, which the printed figures name.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from fault_runs.run import FaultRun
from fault_runs.schedule import INSIDE_CLAIM, INSIDE_SAVE, Fault, Schedule, schedule

from engine.settings import KafkaSettings

pytestmark = pytest.mark.kafka

SECONDS = 18.0


@pytest.mark.parametrize(("seed", "store"), [(2, "redis"), (17, "sqlite"), (20, "sqlite")])
def test_whatever_fails_all_is_answered_and_learned_once(
    kafka: KafkaSettings, redis_url: str, tmp_path: Path, seed: int, store: str
) -> None:
    shared: dict[str, Any] = {}
    if store == "redis":
        shared = {"store_url": redis_url, "signing_key": "the same for all of them"}
    run = FaultRun(schedule(seed, SECONDS), kafka, tmp_path, shared=shared)
    print(f"PYTHONPATH=tests python -m fault_runs --seed {seed} --seconds {SECONDS} --store {store}")
    report = asyncio.run(run.run())
    print(report.line())
    report.check()
    assert not shared or not list(tmp_path.rglob("*.sqlite*")), "a checkpoint was left on one machine"


def test_a_build_that_forgets_what_is_logged_does_not_pass(kafka: KafkaSettings, tmp_path: Path) -> None:
    faults = (Fault("point", 0, 0, "after flush", "SIGKILL", 2),)
    run = FaultRun(Schedule(0, 1, faults), kafka, tmp_path, shared={}, broken="suppression")
    with pytest.raises(AssertionError, match="counts 2 times"):
        asyncio.run(run.run())


@pytest.mark.parametrize("store", ["redis", "sqlite"])
def test_a_worker_that_froze_inside_a_save_or_a_claim_harms_nothing_when_it_goes_on(
    kafka: KafkaSettings, redis_url: str, tmp_path: Path, store: str
) -> None:
    """Longer than its session.  A Redis refuses what it goes on to write; a file of its own machine, which it
    holds meanwhile, takes it, and the logs say that it counts no more."""
    shared = {"store_url": redis_url, "signing_key": "the same for all of them"} if store == "redis" else {}
    faults = (
        Fault("point", 0, 0, INSIDE_SAVE, "SIGSTOP", 2),
        Fault("point", 1, 0, INSIDE_CLAIM, "SIGSTOP"),
    )
    run = FaultRun(Schedule(0, 2, faults), kafka, tmp_path, shared=shared)
    report = asyncio.run(run.run())
    print(report.line())
    report.check()
    assert report.points == [INSIDE_SAVE, INSIDE_CLAIM]
    logs = [(worker, log) for worker in run.workers for log in sorted(worker.log.parent.glob("*.log"))]
    refused = [line["point"] for worker, log in logs for line in worker.logged("refused", log=log)]
    assert refused == ([INSIDE_SAVE] if store == "redis" else [])
