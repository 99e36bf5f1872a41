"""`headrace doctor`: is this machine, and are its servers, fit to run a pipeline?

Lives here: options, lines, the exit code.  Never here: what is looked at (`engine/doctor`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.options import Json, KafkaOptions, grouped, print_json
from engine.definition.file import load_pipeline

if TYPE_CHECKING:
    from engine.definition.pipeline import Pipeline
    from engine.doctor.findings import DoctorFinding
    from engine.settings import Settings

__all__ = ["doctor"]

UNHEALTHY = 3
STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


@grouped
def doctor(
    kafka: KafkaOptions,
    file: Annotated[
        Path | None, typer.Argument(metavar="PIPELINE.py", help="Looks at its topics and retention too.")
    ] = None,
    write: Annotated[
        bool,
        typer.Option(
            "--write", help="Make a topic, write one record, delete it: shows rights and the clock."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Look at Python, libraries, the state directory, Kafka and Redis; say what is wrong and what to do.

    Changes nothing, unless --write is given.  Exit code 0: a worker can run, whatever the warnings; 3: not.
    """
    settings = kafka.settings()
    pipeline = None if file is None else load_pipeline(file)
    found = asyncio.run(_look(settings, pipeline, write=write))
    failed = any(one.level == "fail" for one in found)
    if json:
        print_json({"fit": not failed, "findings": [one._asdict() for one in found]})
    else:
        _print(found, "PIPELINE.py" if file is None else str(file), write=write, failed=failed)
    if failed:
        raise typer.Exit(UNHEALTHY)


async def _look(settings: Settings, pipeline: Pipeline | None, *, write: bool) -> list[DoctorFinding]:
    from engine.doctor.broker import broker_findings  # noqa: PLC0415
    from engine.doctor.machine import machine_findings  # noqa: PLC0415
    from engine.doctor.stores import store_findings  # noqa: PLC0415

    found = list(machine_findings(settings))
    found += [one async for one in broker_findings(settings.kafka, pipeline, write=write)]
    found += await asyncio.to_thread(lambda: list(store_findings(settings, write=write)))
    return found


def _print(found: list[DoctorFinding], file: str, *, write: bool, failed: bool) -> None:
    from rich.text import Text  # noqa: PLC0415

    from engine.cli.report import out  # noqa: PLC0415

    width = max(len(one.check) for one in found)
    for one in found:
        out.print(Text(f"{one.level:5}", style=STYLES[one.level]), Text(f"{one.check:{width}}  {one.said}"))
        if one.fix:
            out.print(Text(f"{'':{width + 8}}fix: {one.fix}"))
    counts = Counter(one.level for one in found)
    out.print(f"\n{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} faults")
    if not write:
        out.print("not looked at: the right to write, and the broker's clock (--write)")
    if failed:
        out.print("next: mend the faults, then headrace doctor again", highlight=False)
    else:
        out.print(f"next: headrace run {file}", highlight=False)
