"""Real streams through the backtest, beside simple rules; writes the tables of `docs/learning-results.md`.

Lives here: the command.  Never here: streams, rules, tables.

Run as `python -m loadtest.learning`; the data sets lie in `--data` (or HEADRACE_DATA).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from loadtest.learning.course import course_of
from loadtest.learning.page import goals_table, put, streams_table
from loadtest.learning.rules import Answers, outcomes
from loadtest.learning.streams import STREAMS, Stream
from topics.codec import encode_json
from topics.errors import HeadraceError, SettingsError
from topics.messages import Task

PAGE = Path(__file__).parents[2] / "docs" / "learning-results.md"


def main(
    *,
    data: Annotated[Path, typer.Option(envvar="HEADRACE_DATA", help="Folder of the data sets.")],
    stream: Annotated[
        list[str] | None, typer.Option(help="Only this one, printed, the page left alone; repeatable.")
    ] = None,
    page: Annotated[Path, typer.Option(help="The page whose tables are replaced.")] = PAGE,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Race on every stream and write the tables."""
    known = {one.name: one for one in STREAMS}
    if unknown := [name for name in stream or () if name not in known]:
        raise SettingsError(f"there is no stream `{unknown[0]}`", hint=f"one of: {', '.join(known)}")
    found: dict[str, tuple[Task, Answers]] = {}
    for one in STREAMS:
        if not stream or one.name in stream:
            started = time.perf_counter()
            found[one.title] = _measured(one, data)
            typer.echo(f"{one.name}: {time.perf_counter() - started:.0f} s", err=True)
    if not stream:
        put(page, "streams", streams_table(found))
        put(page, "goals", goals_table(found))
    if json:
        typer.echo(encode_json(_plain(found)).decode())
    else:
        typer.echo(f"{streams_table(found)}\n\n{goals_table(found)}")


def _measured(stream: Stream, data: Path) -> tuple[Task, Answers]:
    pipeline = stream.pipeline()
    return pipeline.task, outcomes(course_of(pipeline, *stream.records(data)))


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
