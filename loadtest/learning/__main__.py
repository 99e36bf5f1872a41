"""Real streams through the backtest, beside simple rules; writes the tables of `docs/learning-results.md`.

Lives here: the command.  Never here: streams, rules, tables.

Run as `python -m loadtest.learning`; the data sets lie in `--data` (or HEADRACE_DATA).  Each table can be
made by itself, `--only streams`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.offline.backtest import Backtest
from engine.offline.freshness import SPANS, freshness_report, picture
from engine.offline.rerun import past_of
from loadtest.learning.bad_slices import planted_found, stationary_found
from loadtest.learning.calibrated import Honesty, calibrated
from loadtest.learning.delays import biases, corrections
from loadtest.learning.estimates import estimated
from loadtest.learning.hostile import hostile
from loadtest.learning.imbalance import fraud, imbalance
from loadtest.learning.monitor_cost import monitor_costs
from loadtest.learning.page import (
    biases_table,
    calibrated_table,
    corrections_table,
    costs_table,
    estimates_table,
    freshness_table,
    goals_table,
    hostile_table,
    imbalance_table,
    planted_table,
    positions_table,
    put,
    releases_table,
    stationary_table,
    streams_table,
)
from loadtest.learning.positions import positions
from loadtest.learning.releases import Released, released
from loadtest.learning.rules import Answers, outcomes
from loadtest.learning.stream_run import records_of_lines, stream_run_of
from loadtest.learning.streams import STREAMS, Stream
from operators.race.blend import Blend
from topics.codec import encode_json
from topics.durations import duration_ms
from topics.errors import HeadraceError, SettingsError
from topics.messages import Task

FRESHNESS_ROWS = 12_000
"""Of the stream over which updates are withheld: four races, one after the other."""
PICTURE = "freshness.svg"
"""Beside the page."""
RELEASED = ("elec2", "weather")
"""Streams on which the loop of the book is measured ..."""
RELEASE_EVERY = 1_024
"""... with the release points of the book."""
CALIBRATED = ("phishing", "bananas")
"""Streams on which scores are corrected."""
COMMAND = "python -m loadtest.learning"
PAGE = Path(__file__).parents[2] / "docs" / "learning-results.md"


class Part(StrEnum):
    """A table of the page."""

    streams = "streams"
    """Served loss, and the goals that it meets or misses."""
    labels = "labels"
    """Labels that come late, and labels that are wrong at first; simulated, so no data are needed."""
    freshness = "freshness"
    releases = "releases"
    hostile = "hostile"
    """Attackers among the sources of labels."""
    imbalance = "imbalance"
    """Remedies for a rare class, on frauds."""
    calibrated = "calibrated"
    """Scores before and after they are corrected."""
    estimates = "estimates"
    """Performance before labels; simulated."""
    slices = "slices"
    """Worse slices, planted and none; simulated."""
    costs = "costs"
    """Time that monitors take."""
    positions = "positions"
    """Clicks that come for the place; simulated."""


def main(
    *,
    data: Annotated[Path, typer.Option(envvar="HEADRACE_DATA", help="Folder of the data sets.")],
    only: Annotated[
        list[Part] | None, typer.Option(help="Make this table again, the others stay; repeatable.")
    ] = None,
    stream: Annotated[
        list[str] | None, typer.Option(help="Only this one, printed, the page left alone; repeatable.")
    ] = None,
    page: Annotated[Path, typer.Option(help="The page whose tables are replaced.")] = PAGE,
    jobs: Annotated[int, typer.Option(min=1, help="Streams raced at the same time.")] = 2,
    json: Annotated[bool, typer.Option("--json", help="Print streams as one JSON object.")] = False,
) -> None:
    """Race on every stream and write the tables."""
    known = {one.name: one for one in STREAMS}
    if unknown := [name for name in stream or () if name not in known]:
        raise SettingsError(f"there is no stream `{unknown[0]}`", hint=f"one of: {', '.join(known)}")
    if stream:
        _tell(_raced([known[name] for name in stream], data, jobs), json=json)
        return
    parts = only or list(Part)
    if Part.labels in parts:
        tables = {
            "label-delays": biases_table(biases()),
            "label-corrections": corrections_table(corrections()),
        }
        _put(page, Part.labels, tables)
    if Part.releases in parts:
        loops = [one for one in STREAMS if one.name in RELEASED]
        _put(page, Part.releases, {"releases": releases_table(_released(loops, data, jobs))})
    if Part.hostile in parts:
        _put(page, Part.hostile, {"hostile": hostile_table(hostile())})
    if Part.imbalance in parts:
        _put(page, Part.imbalance, {"imbalance": imbalance_table(imbalance(fraud(data), jobs))})
    _watch(page, parts, data, jobs)
    if Part.freshness in parts:
        report = _freshness(STREAMS[0].name, data)
        _put(page, Part.freshness, {"freshness": freshness_table(report)})
        page.with_name(PICTURE).write_text(picture(report, f"{STREAMS[0].name}: loss against freshness"))
    if Part.streams in parts:
        found = _raced(STREAMS, data, jobs)
        _put(page, Part.streams, {"streams": streams_table(found), "goals": goals_table(found)})
        _tell(found, json=json)


def _watch(page: Path, parts: Sequence[Part], data: Path, jobs: int) -> None:
    """Write the tables of what is seen of answers before and after the truth."""
    if Part.calibrated in parts:
        _put(page, Part.calibrated, {"calibrated": calibrated_table(_calibrated(data, jobs))})
    if Part.estimates in parts:
        _put(page, Part.estimates, {"estimates": estimates_table(estimated())})
    if Part.costs in parts:
        _put(page, Part.costs, {"monitor-costs": costs_table(monitor_costs())})
    if Part.positions in parts:
        _put(page, Part.positions, {"positions": positions_table(positions())})
    if Part.slices in parts:
        tables = {
            "slices-planted": planted_table(planted_found(jobs)),
            "slices-stationary": stationary_table(stationary_found(jobs)),
        }
        _put(page, Part.slices, tables)


def _put(page: Path, part: Part, tables: Mapping[str, str]) -> None:
    for name, table in tables.items():
        put(page, name, table, f"{COMMAND} --only {part}")


def _tell(found: Mapping[str, tuple[Task, Answers]], *, json: bool) -> None:
    if json:
        typer.echo(encode_json(_plain(found)).decode())
    else:
        typer.echo(f"{streams_table(found)}\n\n{goals_table(found)}")


def _raced(streams: Sequence[Stream], data: Path, jobs: int) -> dict[str, tuple[Task, Answers]]:
    """Return what the answers on each stream came to, by title."""
    with ProcessPoolExecutor(jobs) as pool:
        measured = pool.map(_measured, [one.name for one in streams], [data] * len(streams))
        return {one.title: answers for one, answers in zip(streams, measured, strict=True)}


def _released(streams: Sequence[Stream], data: Path, jobs: int) -> dict[str, Mapping[str, Released]]:
    """Return what releases come to on each stream, by title."""
    with ProcessPoolExecutor(jobs) as pool:
        measured = pool.map(_released_on, [one.name for one in streams], [data] * len(streams))
        return {one.title: found for one, found in zip(streams, measured, strict=True)}


def _released_on(name: str, data: Path) -> Mapping[str, Released]:
    return released(_stream(name), data, RELEASE_EVERY)


def _calibrated(data: Path, jobs: int) -> dict[str, Mapping[str, Mapping[str, Honesty]]]:
    """Return how honest scores are on each stream, corrected and not, by title."""
    with ProcessPoolExecutor(jobs) as pool:
        measured = pool.map(_calibrated_on, CALIBRATED, [data] * len(CALIBRATED))
        return {_stream(name).title: found for name, found in zip(CALIBRATED, measured, strict=True)}


def _calibrated_on(name: str, data: Path) -> Mapping[str, Mapping[str, Honesty]]:
    return calibrated(_stream(name), data)


def _stream(name: str) -> Stream:
    return next(one for one in STREAMS if one.name == name)


def _measured(name: str, data: Path) -> tuple[Task, Answers]:
    """Return what a stream's answers came to; it says when it is done."""
    started = time.perf_counter()
    stream = _stream(name)
    pipeline = stream.pipeline()
    blends = frozenset(name for name, one in pipeline.candidates.items() if isinstance(one.model, Blend))
    answers = outcomes(stream_run_of(pipeline, *stream.records(data)), blends)
    typer.echo(f"{name}: {time.perf_counter() - started:.0f} s", err=True)
    return pipeline.task, answers


def _freshness(name: str, data: Path) -> dict[str, Any]:
    """Return what `headrace freshness` says of a stream."""
    stream = _stream(name)
    pipeline = stream.pipeline()
    run = Backtest(pipeline, keep_examples=True)
    events, labels = stream.records(data)
    run.play(
        [records_of_lines(pipeline.events.name, list(events)[:FRESHNESS_ROWS])],
        [records_of_lines("labels", list(labels)[:FRESHNESS_ROWS])],
    )
    past = past_of(pipeline, run.run.examples or ())
    return freshness_report(pipeline, past, {span: duration_ms(span) for span in SPANS})


def _plain(found: Mapping[str, tuple[Task, Answers]]) -> dict[str, object]:
    return {
        title: {
            "task": task,
            "rows": answers.rows,
            "best_single": answers.best_name,
            **{
                name: {"loss": outcome.loss, "metric": outcome.metric, "swaps": outcome.swaps}
                for name, outcome in (
                    ("served", answers.served),
                    ("first", answers.first),
                    ("best", answers.best),
                    ("last", answers.last),
                    ("window", answers.window),
                )
            },
        }
        for title, (task, answers) in found.items()
    }


if __name__ == "__main__":
    try:
        typer.run(main)
    except HeadraceError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(1) from None
