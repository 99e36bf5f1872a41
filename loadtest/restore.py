"""`python -m loadtest.restore`: a large state in both stores: to write it, to go on from it.

Lives here: the state, the rounds, the table.  Never here: a broker, models worth the name.

The state is that of a scorer with a window for each of so many keys.  It is saved as a worker saves it, to a
directory and to a Redis that this command starts, which says for how long its commands have held it; on a
machine that does other things as well the longest of them was interrupted.  Then a fresh process claims the
partition, restores it and answers an event.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import msgspec
import redis
import typer
from rich.console import Console
from rich.table import Table
from river import linear_model

from engine import Labels, Pipeline, Topic
from engine.host.garbage import search_rarely
from engine.kafka.embedded import free_port
from engine.machines.scorer import Scorer
from engine.offline.backtest import LocalRun
from engine.settings import Settings
from engine.stores.checkpoints import CheckpointStore
from engine.stores.places import checkpoint_store
from loadtest.bench.report import machine
from operators import by, field
from operators.claims.rule import Suppression, Writer
from topics.codec import encode_json
from topics.messages import Record

KEYS: Final = 1_000_000
START_MS: Final = 1_700_000_000_000
BLOCK: Final = 10_000
"""Events offered at a time."""


class Payment(msgspec.Struct):
    """An event of one key."""

    event_id: str
    event_time: int
    card: str
    amount: float


def pipeline() -> Pipeline:
    """Return a definition with two windows for each key, whose answers do not wait."""
    return Pipeline(
        name="restore",
        events=Topic("restore.events", Payment, key="card", grace="0s"),
        labels=Labels("restore.labels", wait="1s"),
        features={
            "amount": field("amount"),
            "n": by("card").count("24h"),
            "mean": by("card").mean("amount", "24h"),
        },
        models={"lr": linear_model.LogisticRegression()},
    )


def event(number: int, key: int) -> Record:
    """Return the event of this number."""
    card = f"card-{key:09d}"
    row = {"event_id": f"e{number}", "event_time": START_MS + number, "card": card, "amount": 1.5}
    return Record("restore.events", 0, number, None, card.encode(), encode_json(row))


def new_scorer() -> Scorer:
    """Return a scorer with nothing in it."""
    defined = pipeline()
    roster = LocalRun(defined).learner.roster
    return Scorer(defined, partition=0, roster=roster, writer=Writer(0, 1), suppression=Suppression())


def answer(scorer: Scorer, records: list[Record]) -> int:
    """Answer events; return how many."""
    scorer.intake.offer_events(records)
    answered = 0
    while run := scorer.intake.next_run(events_unread=False, labels_unread=False):
        list(scorer.step(run, START_MS))
        answered += len(run.events)
    return answered


@contextmanager
def own_redis(folder: str) -> Iterator[str]:
    """Yield the address of an empty Redis."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603 - our own
    try:
        with redis.Redis(port=port) as client:
            while True:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    time.sleep(0.01)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait()


def opened(url: str, folder: Path) -> CheckpointStore:
    """Return the store of a Redis, or of this machine where `url` is empty."""
    settings = Settings(state_dir=folder, store_url=url or None)  # type: ignore[arg-type]
    return checkpoint_store(settings, "restore", "scorer", 0)


async def written(url: str, folder: Path, keys: int) -> dict[str, float]:
    """Fill a scorer, save it, and save it three times more with little; return the figures."""
    scorer = new_scorer()
    for start in range(0, keys, BLOCK):
        answer(scorer, [event(number, number) for number in range(start, min(start + BLOCK, keys))])
    store = opened(url, folder)
    claim, delta = await store.fence(), scorer.delta()
    figures: dict[str, float] = {
        "entries": len(delta),
        "entry_bytes": sum(len(n) + len(v or b"") for n, v in delta.items()) / len(delta),
    }
    for more, name in enumerate(("first_save_s", "small_save_s", "merging_save_s", "later_save_s")):
        if more:
            answer(scorer, [event(keys + more, more)])
            delta = scorer.delta()
        began_s = time.perf_counter()
        await store.save(claim, b"%d" % more, delta)
        figures[name] = time.perf_counter() - began_s
    await store.close()
    return figures


async def written_to_redis(url: str, folder: Path, keys: int) -> dict[str, float]:
    """Write to a Redis; return the figures, and what it says of itself."""
    with redis.Redis.from_url(url) as client:
        empty = client.info("memory")["used_memory"]
        client.config_set("slowlog-log-slower-than", 1_000)
        client.config_set("slowlog-max-len", 10_000)
        figures = await written(url, folder, keys)
        client.memory_purge()
        figures["redis_bytes_per_entry"] = (client.info("memory")["used_memory"] - empty) / figures["entries"]
        slow = client.slowlog_get(10_000)
        figures["longest_command_ms"] = max((one["duration"] / 1000 for one in slow), default=0.0)
        figures["script_ms"] = client.info("commandstats")["cmdstat_eval"]["usec_per_call"] / 1000
        figures["commands_over_10_ms"] = sum(one["duration"] > 10_000 for one in slow)
    return figures


def peak_mb() -> float:
    """Return how large this process was at most; 0 where the system does not say it."""
    status = Path("/proc/self/status")
    return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 1024 if status.exists() else 0.0


async def restored(url: str, folder: Path, keys: int) -> dict[str, float]:
    """Claim, load, restore, answer; return the figures."""
    scorer = new_scorer()
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    store = opened(url, folder)
    await store.fence()
    found = await store.load()
    assert found is not None
    loaded_s, loaded_cpu_s = time.perf_counter(), time.process_time()
    scorer.restore(found.entries)
    search_rarely()
    restored_s = time.perf_counter()
    assert answer(scorer, [event(keys + 10, 10)]) == 1
    assert scorer.scored[-1][0].features["n"] == 2
    answered_s, answered_cpu_s = time.perf_counter(), time.process_time()
    await store.close()
    return {
        "load_s": loaded_s - began_s,
        "restore_s": restored_s - loaded_s,
        "first_answer_s": answered_s - began_s,
        "load_cpu_s": loaded_cpu_s - began_cpu_s,
        "first_answer_cpu_s": answered_cpu_s - began_cpu_s,
        "peak_mb": peak_mb(),
    }


def restored_apart(url: str, folder: Path, keys: int) -> dict[str, float]:
    """Restore in a fresh process; return the figures."""
    again = [sys.executable, "-m", "loadtest.restore", "--keys", str(keys), "--restore", f"{folder}:{url}"]
    told = subprocess.run(again, stdout=subprocess.PIPE, check=True, text=True).stdout  # noqa: S603
    figures: dict[str, float] = json.loads(told.splitlines()[-1])
    return figures


def through_sqlite(folder: Path, keys: int) -> dict[str, float]:
    """Write and restore a state on this machine."""
    return asyncio.run(written("", folder, keys)) | restored_apart("", folder, keys)


def through_redis(folder: Path, keys: int) -> dict[str, float]:
    """Write and restore a state in a Redis."""
    with own_redis(str(folder)) as url, redis.Redis.from_url(url) as client:

        def used_s() -> float:
            cpu = client.info("cpu")
            return float(cpu["used_cpu_user"] + cpu["used_cpu_sys"])

        figures = asyncio.run(written_to_redis(url, folder, keys))
        before_s = used_s()
        figures |= restored_apart(url, folder, keys)
        figures["redis_cpu_of_restore_s"] = used_s() - before_s
    return figures


def main(
    keys: Annotated[int, typer.Option(help="Keys with a window each.")] = KEYS,
    restore: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Write and restore a state of so many keys."""
    if restore:
        folder, _, url = restore.partition(":")
        print(json.dumps(asyncio.run(restored(url, Path(folder), keys))))
        return
    figures = {}
    for name, through in (("SQLite", through_sqlite), ("Redis", through_redis)):
        with tempfile.TemporaryDirectory(prefix="headrace-restore-") as folder:
            figures[name] = through(Path(folder), keys)
    table = Table(title=f"{keys:,} keys", caption=machine())
    table.add_column("figure")
    for name in figures:
        table.add_column(name, justify="right")
    for one in figures["Redis"]:
        table.add_row(one, *[f"{of[one]:,.2f}" if one in of else "" for of in figures.values()])
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
