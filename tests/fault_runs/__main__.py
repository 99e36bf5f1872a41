"""The command: one seed, or many one after the other, each beside brokers that this process starts."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from brokers.kafka import kafka_server
from brokers.redis import redis_server

from fault_runs.run import FaultRun
from fault_runs.schedule import schedule


def main() -> int:
    """Run the seeds; return 1 if any failed."""
    parser = argparse.ArgumentParser(prog="fault_runs", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds, one after the other")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long faults come in each, about")
    parser.add_argument("--store", choices=("sqlite", "redis", "both"), default="both")
    parser.add_argument("--more", default="", help="further arguments of the pipeline: 'follow=\"1s\",'")
    parser.add_argument("--broken", choices=("suppression",), default="", help="leave a step out")
    parser.add_argument("--keep", type=Path, help="keep logs and state in this directory")
    asked = parser.parse_args()
    failed: list[str] = []
    with ExitStack() as servers:
        folder = asked.keep or Path(
            servers.enter_context(tempfile.TemporaryDirectory(prefix="headrace-faults-"))
        )
        for name in ("kafka", "redis"):
            (folder / name).mkdir(parents=True)
        kafka = servers.enter_context(kafka_server(folder / "kafka"))
        url = servers.enter_context(redis_server(folder / "redis"))
        for seed in range(asked.seed, asked.seed + asked.seeds):
            store = asked.store if asked.store != "both" else ("sqlite", "redis")[seed % 2]
            shared = {"store_url": url, "signing_key": "the same for all of them"} if store == "redis" else {}
            place = folder / f"seed-{seed}"
            place.mkdir()
            run = FaultRun(
                schedule(seed, asked.seconds),
                kafka,
                place,
                shared=shared,
                more=asked.more,
                broken=asked.broken,
            )
            began = time.strftime("%Y-%m-%d %H:%M")
            try:
                asyncio.run(run.run())
                run.report.check()
            except AssertionError as error:
                failed.append(f"{store} seed {seed}")
                print(f"{began} {store} FAILED {run.report.line()}\n{error}", flush=True)
            else:
                print(f"{began} {store} {run.report.line()}", flush=True)
    print(f"{asked.seeds - len(failed)} of {asked.seeds} passed; failed: {', '.join(failed) or 'none'}")
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main())
