"""`python -m loadtest.windows`: what exact sliding windows cost, beside what others do.

Lives here: the contestants, the rounds, the table.  Never here: Kafka, models, the rest of job J.

One run measures all contestants in turn, round after round, on the 12 window features of job J
(`plain.py`), because only figures of one run compare.  Events are decoded, untimed, right before they
are stepped, as in the engine; the first half of the data fills the windows, the second is timed.
CPU time is the process's, all threads; medians over rounds.

Each figure is taken in a fresh process, so that nobody pays for what another has left in memory.
"""

from __future__ import annotations

import gc
import json
import random
import resource
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Final

import msgspec
import orjson
import polars as pl
import typer
from rich.console import Console
from rich.table import Table
from river import stats, utils

from engine.host.garbage import search_rarely
from loadtest.bench.report import machine
from loadtest.job_j.plain import SPANS_MS, START_MS, Cards, NaiveWindows, make_events
from operators import by
from operators.language.expressions import Expression
from operators.language.plan import compile_features
from operators.windows.features import Features
from topics.messages import Event

GRACE_MS: Final = 60_000
EVENTS_PER_KEY_MAX: Final = 100_000
"""The engine's own defaults."""
BLOCK: Final = 2_000
"""Events decoded at a time."""
RIVER_EVENTS: Final = 20_000
"""River's rolling statistics cost what their windows hold: of more events only these are stepped."""
KEY_COUNTS: Final = (1_000, 10_000, 100_000, 1_000_000)
STEADY_EVENTS: Final = 100_000
"""Events timed once every key has its two."""
FLAT: Final = 1.5
"""Growth that still counts as none."""

Step = Callable[[list[Any]], None]


class Payment(msgspec.Struct):
    """The fields of job J that its windows need."""

    id: str
    ts: int
    card: str
    amount: float


def new_features() -> Features:
    """Return the 12 features of job J, with nothing in them."""
    card, definition = by("card"), dict[str, Expression]()
    for span in SPANS_MS:
        definition |= {
            f"count_{span}": card.count(span),
            f"sum_{span}": card.sum("amount", span),
            f"mean_{span}": card.mean("amount", span),
            f"max_{span}": card.max("amount", span),
        }
    plan = compile_features(
        definition, Payment, grace_ms=GRACE_MS, max_events_per_key=EVENTS_PER_KEY_MAX, task="binary"
    )
    return Features(plan)


def _event(payment: Payment, offset: int) -> Event:
    return Event(
        payment.id, payment.ts, payment.card, payment, offset=offset, watermark=payment.ts - GRACE_MS
    )


def _decoded(values: Sequence[bytes]) -> list[Event]:
    decode = msgspec.json.Decoder(Payment).decode
    return [_event(decode(value), offset) for offset, value in enumerate(values)]


def _dicts(values: Sequence[bytes]) -> list[dict[str, Any]]:
    return [orjson.loads(value) for value in values]


def headrace(batch: int) -> Step:
    """Return Headrace's step over batches of so many events."""
    features = new_features()

    def step(events: list[Event]) -> None:
        for start in range(0, len(events), batch):
            features.step_events(events[start : start + batch])

    return step


def naive() -> Step:
    """Return deques, running sums and deques of maxima: in order only, sums drift."""
    windows = NaiveWindows()

    def step(events: list[dict[str, Any]]) -> None:
        for event in events:
            windows.step(event)

    return step


def river() -> Step:
    """Return River's `TimeRolling` sum and mean: 6 of the 12, for it knows no maximum over time."""
    cards: dict[str, list[Any]] = {}

    def step(events: list[dict[str, Any]]) -> None:
        for event in events:
            rolling = cards.get(event["card"])
            if rolling is None:
                rolling = cards[event["card"]] = [
                    utils.TimeRolling(statistic, period=timedelta(milliseconds=span_ms))
                    for span_ms in SPANS_MS.values()
                    for statistic in (stats.Sum, stats.Mean)
                ]
            now = datetime.fromtimestamp(event["ts"] / 1_000, UTC).replace(tzinfo=None)
            for each in rolling:
                each.update(event["amount"], t=now)
            {number: each.get() for number, each in enumerate(rolling)}

    return step


def polars(values: Sequence[bytes]) -> tuple[float, float]:
    """Return CPU and wall us per event of polars, which gets all events at once."""
    events = _dicts(values)
    frame = pl.DataFrame(
        {
            "ts": pl.Series([event["ts"] for event in events]).cast(pl.Datetime("ms")),
            "card": [event["card"] for event in events],
            "amount": [event["amount"] for event in events],
        }
    )
    amount = pl.col("amount")
    wanted = [
        pl.len().alias("count"),
        amount.sum().alias("sum"),
        amount.mean().alias("mean"),
        amount.max().alias("max"),
    ]
    cpu, wall = time.process_time(), time.perf_counter()
    for span_ms in SPANS_MS.values():
        frame.rolling("ts", period=f"{span_ms}ms", group_by="card").agg(wanted)
    scale = 1e6 / len(events)
    return (time.process_time() - cpu) * scale, (time.perf_counter() - wall) * scale


def stepped(
    values: Sequence[bytes], step: Step, decode: Callable[[Sequence[bytes]], list[Any]]
) -> tuple[float, float]:
    """Return CPU and wall us per event over the second half of `values`."""
    cpu, wall, half = 0.0, 0.0, len(values) // 2
    for start in range(0, len(values), BLOCK):
        events = decode(values[start : start + BLOCK])
        cpu_start, wall_start = time.process_time(), time.perf_counter()
        step(events)
        if start >= half:
            cpu += time.process_time() - cpu_start
            wall += time.perf_counter() - wall_start
    scale = 1e6 / (len(values) - half)
    return cpu * scale, wall * scale


CONTESTANTS: Final[dict[str, Callable[[Sequence[bytes]], tuple[float, float]]]] = {
    "headrace, one at a time": lambda values: stepped(values, headrace(1), _decoded),
    "headrace, batches of 500": lambda values: stepped(values, headrace(500), _decoded),
    "deques by hand (inexact)": lambda values: stepped(values, naive(), _dicts),
    "polars rolling, all at once": polars,
    "River TimeRolling, 6 of 12": lambda values: stepped(values[:RIVER_EVENTS], river(), _dicts),
}


def race(count: int, rounds: int) -> dict[str, Any]:
    """Return medians per data set and contestant, and ratios to Headrace one at a time in the same round."""
    found: dict[str, Any] = {}
    for cards in ("zipf", "uniform"):
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in CONTESTANTS}
        for _ in range(rounds):
            for name, mine in runs.items():
                mine.append(_apart("--events", str(count), "--only", f"{name}:race:{cards}"))
        first = runs["headrace, one at a time"]
        found[cards] = {
            name: {
                "cpu_us": round(median(one["cpu_us"] for one in mine), 2),
                "wall_us": round(median(one["wall_us"] for one in mine), 2),
                "cpu_us_min": round(min(one["cpu_us"] for one in mine), 2),
                "ratio": round(
                    median(one["cpu_us"] / base["cpu_us"] for one, base in zip(mine, first, strict=True)), 2
                ),
            }
            for name, mine in runs.items()
        }
    return found


def contest(name: str, cards: str, count: int) -> dict[str, float]:
    """Return CPU and wall us per event of one contestant, in this process."""
    values = make_events(count, _cards(cards))
    search_rarely()  # as a worker does
    cpu_us, wall_us = CONTESTANTS[name](values)
    return {"cpu_us": cpu_us, "wall_us": wall_us}


def _cards(name: str) -> Cards:
    return "zipf" if name == "zipf" else "uniform"


def _two_each(keys: int, count: int, *, start: int) -> Iterator[list[Event]]:
    """Yield blocks of events that give each of `keys` keys two events an hour, in random order."""
    chance = random.Random(start)  # noqa: S311  no secret
    gap_ms = 3_600_000 / (2 * keys)
    for block in range(start, start + count, BLOCK):
        yield [
            _event(
                Payment(
                    str(number),
                    START_MS + int(number * gap_ms),
                    f"card-{chance.randrange(keys):07d}",
                    round(chance.lognormvariate(3, 1), 2),
                ),
                number,
            )
            for number in range(block, min(block + BLOCK, start + count))
        ]


def steady(keys: int, batch: int) -> dict[str, float]:
    """Return CPU us per event where `keys` keys have two events each, in this process."""
    features = new_features()
    for events in _two_each(keys, max(2 * keys, STEADY_EVENTS), start=0):
        features.step_events(events)
    features.delta()
    search_rarely()
    figures = []
    for events in _two_each(keys, STEADY_EVENTS, start=max(2 * keys, STEADY_EVENTS)):
        cpu = time.process_time()
        for start in range(0, len(events), batch):
            features.step_events(events[start : start + batch])
        figures.append((time.process_time() - cpu) * 1e6 / len(events))
    return {"cpu_us": round(median(figures), 2)}


def memory(measure: str, keys: int) -> dict[str, float]:
    """Return bytes per key with two events each, keys' text included, in this process.

    `measure`: "python" for what Python still holds (tracemalloc), "rss" for how the process has grown.
    """
    features = new_features()
    names = [f"card-{number:07d}" for number in range(keys)]
    before = _rss()
    if measure == "python":
        tracemalloc.start()
    for number in range(2 * keys):
        name = names[number % keys][:]
        at = START_MS + number * 10
        payment = Payment("", at, "".join([name[:5], name[5:]]), number % 997 + 0.25)
        features.step_events([_event(payment, number)])
        if number % BLOCK == 0:
            features.delta()
    features.delta()
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] if measure == "python" else _rss() - before
    return {"bytes": round(held / keys, 1)}


def _rss() -> int:
    text = Path("/proc/self/statm").read_text() if sys.platform == "linux" else ""
    return int(text.split()[1]) * resource.getpagesize() if text else 0


def _apart(*arguments: str) -> dict[str, float]:
    """Run one figure in a process of its own."""
    done = subprocess.run(  # noqa: S603  this module itself
        [sys.executable, "-m", "loadtest.windows", *arguments], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def figure(wanted: str, count: int) -> dict[str, float]:
    """Return what `--only` asks for, measured in this process."""
    who, measure, of, *batch = wanted.split(":")
    if measure == "race":
        return contest(who, of, count)
    return steady(int(of), int(batch[0])) if measure == "steady" else memory(measure, int(of))


def command(
    *,
    events: Annotated[int, typer.Option(min=2 * BLOCK, help="Events of each data set.")] = 200_000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds over all contestants.")] = 3,
    keys_max: Annotated[int, typer.Option(help="Largest number of keys in steady state.")] = 1_000_000,
    only: Annotated[
        str | None,
        typer.Option(help="One: CONTESTANT:race:CARDS, plain:steady:KEYS:BATCH, plain:python|rss:KEYS."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure the windows of job J: us per event, growth with keys, bytes per key."""
    if only is not None:
        typer.echo(json.dumps(figure(only, events)))
        return
    report: dict[str, Any] = {"machine": machine(), "events": events, "rounds": rounds}
    report["race"] = race(events, rounds)
    report["steady"] = {
        f"batches of {batch}": {
            str(keys): _apart("--only", f"plain:steady:{keys}:{batch}")["cpu_us"]
            for keys in KEY_COUNTS
            if keys <= keys_max
        }
        for batch in (1, 500)
    }
    report["bytes_per_key"] = {
        measure: _apart("--only", f"plain:{measure}:100000")["bytes"] for measure in ("python", "rss")
    }
    typer.echo(json.dumps(report)) if json_ else _print(report)


def _print(report: dict[str, Any]) -> None:
    console = Console()
    for cards, rows in report["race"].items():
        table = Table(title=f"12 features, {report['events']:,} events, cards {cards}")
        for column in ("", "CPU us/event", "best", "wall us/event", "ratio"):
            table.add_column(column, justify="left" if not column else "right")
        for name, row in rows.items():
            figures = (row["cpu_us"], row["cpu_us_min"], row["wall_us"], row["ratio"])
            table.add_row(name, *(f"{figure:.2f}" for figure in figures))
        console.print(table)
    table = Table(title="steady state, two events an hour per key: CPU us/event")
    table.add_column("")
    counts = [str(keys) for keys in KEY_COUNTS if str(keys) in report["steady"]["batches of 1"]]
    for keys in (*counts, "growth"):
        table.add_column(f"{int(keys):,} keys" if keys.isdigit() else keys, justify="right")
    for name, row in report["steady"].items():
        growth = max(row.values()) / row[counts[0]]
        verdict = "flat" if growth <= FLAT else "grows"
        table.add_row(name, *(f"{row[keys]:.2f}" for keys in counts), f"{growth:.2f} {verdict}")
    console.print(table)
    kept = report["bytes_per_key"]
    found = f"{kept['python']:.0f} allocated, {kept['rss']:.0f} RSS"
    console.print(f"bytes per key, 100,000 keys of two events: {found}")


if __name__ == "__main__":
    typer.run(command)
