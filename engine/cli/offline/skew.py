"""`headrace skew`: are served features what the raw events say?

Lives here: arguments, the table, the exit code.  Never here: the work (`skew.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.options import Json, KafkaOptions, PipelineFile, grouped, print_json

if TYPE_CHECKING:
    from engine.definition.pipeline import Pipeline
    from engine.offline.skew import SkewCounts
    from engine.settings import Settings

__all__ = ["skew"]

SKEWED_EXIT = 4
"""Beside 1 (failed), 2 (wrong usage) and 3 (unhealthy)."""
INTERVAL_S = 5.0
"""Between two looks at the logs' ends."""


@grouped
def skew(
    file: PipelineFile,
    kafka: KafkaOptions,
    one_in: Annotated[int, typer.Option(min=1, help="Look at one key of so many.")] = 100,
    once: Annotated[
        bool, typer.Option("--once", help="The logs as they stand; exit code 4 on skew.")
    ] = False,
    web_port: Annotated[
        int, typer.Option(min=1, max=65_535, help="Port of /metrics, without --once.")
    ] = 6067,
    json: Json = False,
) -> None:
    """Recompute features of sampled keys from the topics and compare them with what was served."""
    from engine.definition.file import load_pipeline  # noqa: PLC0415 - River takes seconds to import
    from engine.host.pages import check_port  # noqa: PLC0415
    from engine.offline.skew import check_once  # noqa: PLC0415

    settings = kafka.settings()
    pipeline = load_pipeline(file)
    if not once:
        check_port(settings.web.host, web_port, hint="give another --web-port")
        typer.echo(f"metrics on http://{settings.web.host}:{web_port}/metrics; Ctrl-C ends")
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_follow(pipeline, settings, one_in=one_in, web_port=web_port))
        return
    counts = asyncio.run(check_once(pipeline, settings.kafka, one_in=one_in))
    if json:
        print_json(counts.report())
    else:
        _print(counts)
    if counts.skewed:
        raise typer.Exit(SKEWED_EXIT)


async def _follow(pipeline: Pipeline, settings: Settings, *, one_in: int, web_port: int) -> None:
    """Compare the logs as they grow, and serve the counts."""
    from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415

    from engine.host.pages import EXPOSITION, Page, PageText, serving  # noqa: PLC0415
    from engine.offline.skew import follow  # noqa: PLC0415

    registry = CollectorRegistry()
    pages = {"/metrics": Page(lambda: PageText(generate_latest(registry), content_type=EXPOSITION))}
    token = settings.web.token.get_secret_value() if settings.web.token else None
    async with serving(settings.web.host, web_port, pages, token=token, counts=Counter()):
        await follow(pipeline, settings.kafka, one_in=one_in, registry=registry, interval_s=INTERVAL_S)


def _print(counts: SkewCounts) -> None:
    from engine.cli.report import out, print_table, table_of  # noqa: PLC0415

    report = counts.report()
    table = table_of("feature", numbers=("match", "mismatch", "missing", "extra", "unchecked"))
    for name, outcomes in report["features"].items():
        table.add_row(name, *(f"{count:,}" for count in outcomes.values()))
    print_table(table)
    for one in report["examples"]:
        out.print(
            f"{one['outcome']} {one['feature']} of event {one['event_id']}"
            f" (partition {one['partition']} offset {one['event_offset']}):"
            f" served {one['served']!r}, expected {one['expected']!r}",
            markup=False,
        )
    events = ", ".join(f"{count:,} {outcome}" for outcome, count in report["events"].items()) or "none"
    out.print(f"events: {events}\nfeatures: {counts.compared:,} compared, {counts.skewed:,} skewed")
    if rare := [name for name, outcomes in report["features"].items() if not any(outcomes.values())]:
        out.print(f"no key in the sample: {', '.join(rare)} (a smaller --one-in has more)", markup=False)
