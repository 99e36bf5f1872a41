"""`python -m loadtest.restore`: a large state in a Redis: to write it, what it takes there, to go on from it.

Lives here: the state, the rounds, the table.  Never here: a broker, models worth the name.

The state is that of a scorer with a window for each of so many keys.  It is saved as a worker saves it, to
a Redis that this command starts, which says for how long its commands have held it; on a machine that does
other things as well the longest of them was interrupted.  Then a fresh process claims the partition,
restores it and answers an event.
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
from typing import Annotated, Any, Final

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
from engine.stores.places import checkpoint_store
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


async def written(url: str, folder: Path, keys: int) -> dict[str, float]:
    """Fill a scorer, save it, and save it twice more with little; return the figures."""
    scorer = new_scorer()
    for start in range(0, keys, BLOCK):
        answer(scorer, [event(number, number) for number in range(start, min(start + BLOCK, keys))])
    with redis.Redis.from_url(url) as client:
        empty = client.info("memory")["used_memory"]
        client.config_set("slowlog-log-slower-than", 1_000)
        client.config_set("slowlog-max-len", 10_000)
        store = checkpoint_store(Settings(state_dir=folder, store_url=url), "restore", "scorer", 0)  # type: ignore[arg-type]
        claim, delta = await store.fence(), scorer.delta()
        figures: dict[str, float] = {
            "entries": len(delta),
            "entry_bytes": sum(len(n) + len(v or b"") for n, v in delta.items()) / len(delta),
        }
        for name, more in (
            ("first_save_s", 0),
            ("small_save_s", 1),
            ("merging_save_s", 2),
            ("later_save_s", 3),
        ):
            if more:
                answer(scorer, [event(keys + more, more)])
                delta = scorer.delta()
            began_s = time.perf_counter()
            await store.save(claim, b"%d" % more, delta)
            figures[name] = time.perf_counter() - began_s
        client.memory_purge()
        figures["redis_bytes_per_entry"] = (client.info("memory")["used_memory"] - empty) / figures["entries"]
        slow = client.slowlog_get(10_000)
        figures["longest_command_ms"] = max((one["duration"] / 1000 for one in slow), default=0.0)
        figures["script_ms"] = client.info("commandstats")["cmdstat_eval"]["usec_per_call"] / 1000
        figures["commands_over_10_ms"] = sum(one["duration"] > 10_000 for one in slow)
        await store.close()
    return figures


async def restored(url: str, folder: Path, keys: int) -> dict[str, float]:
    """Claim, load, restore, answer; return the figures."""
    scorer = new_scorer()
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    store = checkpoint_store(Settings(state_dir=folder, store_url=url), "restore", "scorer", 0)  # type: ignore[arg-type]
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
    }


def main(
    keys: Annotated[int, typer.Option(help="Keys with a window each.")] = KEYS,
    restore_from: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Write and restore a state of so many keys."""
    with tempfile.TemporaryDirectory(prefix="headrace-restore-") as folder:
        if restore_from:
            print(json.dumps(asyncio.run(restored(restore_from, Path(folder), keys))))
            return
        with own_redis(folder) as url:
            figures: dict[str, Any] = asyncio.run(written(url, Path(folder), keys))
            with redis.Redis.from_url(url) as client:
                before_s = client.info("cpu")["used_cpu_user"] + client.info("cpu")["used_cpu_sys"]
            again = [sys.executable, "-m", "loadtest.restore", "--keys", str(keys), "--restore-from", url]
            told = subprocess.run(again, stdout=subprocess.PIPE, check=True, text=True).stdout  # noqa: S603
            figures |= json.loads(told.splitlines()[-1])
            with redis.Redis.from_url(url) as client:
                after_s = client.info("cpu")["used_cpu_user"] + client.info("cpu")["used_cpu_sys"]
            figures["redis_cpu_of_restore_s"] = after_s - before_s
    table = Table(title=f"{keys:,} keys in a Redis")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.2f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
