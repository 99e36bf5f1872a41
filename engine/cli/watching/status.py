"""`headrace status`: who works on a pipeline, how far behind, what was decided last.

Lives here: the tables, the exit code.  Never here: what is asked (`engine/group/overview.py`).
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.options import Json, KafkaOptions, PipelineFile, grouped, print_json
from engine.definition.file import load_pipeline

if TYPE_CHECKING:
    from engine.group.overview import Overview

__all__ = ["status"]

UNHEALTHY = 3


@grouped
def status(
    file: PipelineFile,
    kafka: KafkaOptions,
    decisions: Annotated[
        int, typer.Option("-n", "--decisions", min=0, max=100, help="How many of the last decisions.")
    ] = 5,
    json: Json = False,
) -> None:
    """Show who works on a pipeline, the lag of each partition, who serves, alerts that fire, last decisions.

    Asked of the topics alone.  Exit code 0: healthy; 3: no worker, partitions without one, or one not ready.
    """
    from engine.group.overview import overview, plain_overview  # noqa: PLC0415

    pipeline = load_pipeline(file)
    now_ms = time.time_ns() // 1_000_000
    settings = kafka.settings().kafka
    found = asyncio.run(overview(settings, pipeline, now_ms, decisions_max=decisions))
    if json:
        print_json({"pipeline": pipeline.name, **plain_overview(found)})
    else:
        _print(pipeline.name, found, str(file))
    if found.troubles:
        raise typer.Exit(UNHEALTHY)


def _print(name: str, found: Overview, file: str) -> None:
    from engine.cli.report import out, print_table, table_of, time_text  # noqa: PLC0415
    from engine.group.members import totals  # noqa: PLC0415

    sums = totals(found.members)
    out.print(
        f"{name}: {sums.ready} of {sums.workers} workers ready, {sums.answered_per_s:g} answers/s, "
        f"{sums.labelled_per_s:g} labels/s, {sums.refused_per_s:g} dead letters/s",
        markup=False,
    )
    table = table_of(
        "worker", "standing", "leads", "champion", numbers=["partitions", "lag", "p99 ms", "unsaved"]
    )
    for one in found.members:
        told = one.status
        standing = f"gone for {one.silent_ms // 1_000} s" if one.gone else told.standing
        champion = f"{told.champion} {told.models.get(told.champion, '')}".strip()
        p99 = "" if told.scoring_p99_ms is None else f"{told.scoring_p99_ms:.1f}"
        row = (f"{told.partitions}", f"{told.lag_records:,}", p99, f"{told.unsaved:,}")
        table.add_row(told.worker, standing, "yes" if told.leading else "", champion, *row)
    if found.members:
        print_table(table)
    table = table_of("topic", numbers=["partition", "lag", "committed"])
    for lag in found.lag:
        committed = "none" if lag.committed is None else f"{lag.committed:,}"
        table.add_row(lag.topic, f"{lag.partition}", f"{lag.records:,}", committed)
    print_table(table)
    firing = {
        policy: count for one in found.members if not one.gone for policy, count in one.status.alerts.items()
    }
    out.print("alerts: " + (", ".join(f"{policy} {count}" for policy, count in firing.items()) or "none"))
    for decision in found.decisions:
        line = f"{time_text(decision.time)}  {decision.type} {decision.model_name}: {decision.reason}"
        out.print(line, markup=False)
    for trouble in found.troubles:
        out.print(f"unhealthy: {trouble}", markup=False)
    command = "doctor" if found.troubles else "models list"
    out.print(f"next: headrace {command} {file}", markup=False)
