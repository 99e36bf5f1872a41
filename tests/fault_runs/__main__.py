"""The command: one seed, or many one after the other, each beside brokers that this process starts."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from brokers.kafka import NativeKafka, kafka_server, settings
from brokers.redis import redis_server
from brokers.slow_link import HOST, SlowLink

from engine.kafka.embedded import free_port
from engine.settings import KafkaSettings
from fault_runs import outage, slow, storm
from fault_runs.run import FaultRun
from fault_runs.schedule import Schedule, schedule

KB = 1_024


class Figures(Protocol):
    """What a run has come to."""

    def line(self) -> str: ...

    def check(self) -> None: ...


class Run(Protocol):
    """A kind of run."""

    @property
    def report(self) -> Figures: ...

    async def run(self) -> Figures: ...


def main() -> int:
    """Run the seeds; return 1 if any failed."""
    asked = _parser().parse_args()
    failed: list[str] = []
    with ExitStack() as servers:
        folder = asked.keep or Path(
            servers.enter_context(tempfile.TemporaryDirectory(prefix="headrace-faults-"))
        )
        for name in ("kafka", "redis"):
            (folder / name).mkdir(parents=True)
        line_port, behind_port = free_port(), free_port()
        if asked.slow or asked.cut:
            server = _behind_a_line(folder / "kafka", line_port, behind_port)
            kafka = servers.enter_context(server).settings
        else:
            kafka = servers.enter_context(kafka_server(folder / "kafka"))
        url = servers.enter_context(redis_server(folder / "redis"))
        for seed in range(asked.seed, asked.seed + asked.seeds):
            store = asked.store if asked.store != "both" else ("sqlite", "redis")[seed % 2]
            shared = {"store_url": url, "signing_key": "the same for all of them"} if store == "redis" else {}
            place = folder / f"seed-{seed}"
            place.mkdir()
            began = time.strftime("%Y-%m-%d %H:%M")
            run = _run(asked, seed, kafka, place, shared, SlowLink(line_port, behind_port))
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fault_runs", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds, one after the other")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long faults come in each, about")
    parser.add_argument("--store", choices=("sqlite", "redis", "both"), default="both")
    parser.add_argument("--more", default="", help="further arguments of the pipeline: 'follow=\"1s\",'")
    parser.add_argument("--broken", choices=("suppression",), default="", help="leave a step out")
    parser.add_argument("--keep", type=Path, help="keep logs and state in this directory")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--rebalance-every", type=float, metavar="S", help="a member leaves or joins so often")
    kind.add_argument("--slow", action="store_true", help="the line to the broker is slow for --seconds")
    kind.add_argument("--cut", action="store_true", help="the line to the broker is cut for --seconds")
    parser.add_argument("--delay-ms", type=float, default=200.0, help="of a slow line, each way")
    parser.add_argument("--kb-per-s", type=float, default=256.0, help="of a slow line, each way")
    return parser


def _behind_a_line(directory: Path, line_port: int, behind_port: int) -> NativeKafka:
    """Return a Kafka with a second listener, which tells its clients to come by the line's port."""
    return NativeKafka(
        directory,
        more_listeners=f",SLOW://{HOST}:{behind_port}",
        more_advertised=f",SLOW://{HOST}:{line_port}",
    )


def _run(
    asked: argparse.Namespace,
    seed: int,
    kafka: KafkaSettings,
    place: Path,
    shared: Mapping[str, Any],
    link: SlowLink,
) -> Run:
    """Return the kind of run that was asked for."""
    options: dict[str, Any] = {"shared": shared, "more": asked.more, "broken": asked.broken}
    if asked.rebalance_every:
        leaving = storm.leavings(seed, asked.seconds, asked.rebalance_every)
        run = FaultRun(Schedule(seed, storm.WORKERS, ()), kafka, place, load=storm.LOAD, **options)
        return storm.Storm(run, leaving, asked.rebalance_every)
    way = settings(f"{HOST}:{link.port}")
    if asked.cut:
        plan = Schedule(seed, outage.WORKERS, ())
        run = FaultRun(plan, kafka, place, load=outage.LOAD, workers_kafka=way, **options)
        return outage.OutageRun(run, link, seconds=asked.seconds)
    if asked.slow:
        plan = Schedule(seed, slow.WORKERS, ())
        run = FaultRun(plan, kafka, place, load=slow.LOAD, workers_kafka=way, **options)
        return slow.SlowRun(
            run,
            link,
            seconds=asked.seconds,
            delay_s=asked.delay_ms / 1_000,
            bytes_per_s=asked.kb_per_s * KB,
        )
    return FaultRun(schedule(seed, asked.seconds), kafka, place, **options)


if __name__ == "__main__":
    raise SystemExit(main())
