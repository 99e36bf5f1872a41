"""Real streams through the backtest, beside simple rules; writes the tables of `docs/learning-results.md`.

Lives here: the command.  Never here: streams, rules, tables.

Run as `python -m loadtest.learning`; the data sets lie in `--data` (or HEADRACE_DATA).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.offline.backtest import Backtest
from engine.offline.freshness import SPANS, freshness_report, picture
from engine.offline.rerun import past_of
from loadtest.learning.page import freshness_table, goals_table, put, releases_table, streams_table
from loadtest.learning.releases import released
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
PAGE = Path(__file__).parents[2] / "docs" / "learning-results.md"


def main(
    *,
    data: Annotated[Path, typer.Option(envvar="HEADRACE_DATA", help="Folder of the data sets.")],
    stream: Annotated[
        list[str] | None, typer.Option(help="Only this one, printed, the page left alone; repeatable.")
    ] = None,
    page: Annotated[Path, typer.Option(help="The page whose tables are replaced.")] = PAGE,
    jobs: Annotated[int, typer.Option(min=1, help="Streams raced at the same time.")] = 2,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Race on every stream and write the tables."""
    known = {one.name: one for one in STREAMS}
    if unknown := [name for name in stream or () if name not in known]:
        raise SettingsError(f"there is no stream `{unknown[0]}`", hint=f"one of: {', '.join(known)}")
    asked = [one for one in STREAMS if not stream or one.name in stream]
    with ProcessPoolExecutor(jobs) as pool:
        fresh = None if stream else pool.submit(_freshness, STREAMS[0].name, data)
        measured = pool.map(_measured, [one.name for one in asked], [data] * len(asked))
        found = {one.title: answers for one, answers in zip(asked, measured, strict=True)}
    if not stream:
        put(page, "streams", streams_table(found))
        put(page, "goals", goals_table(found))
        assert fresh is not None
        report = fresh.result()
        put(page, "freshness", freshness_table(report))
        page.with_name(PICTURE).write_text(picture(report, f"{STREAMS[0].name}: loss against freshness"))
        loops = [one for one in STREAMS if one.name in RELEASED]
        put(
            page, "releases", releases_table({one.title: released(one, data, RELEASE_EVERY) for one in loops})
        )
    if json:
        typer.echo(encode_json(_plain(found)).decode())
    else:
        typer.echo(f"{streams_table(found)}\n\n{goals_table(found)}")


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
