"""`headrace init`: a project from a sample of data.

Lives here: its options, its report.  Never here: the guesses (`engine/project/roles.py`), the files
(`engine/project/writing.py`).
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.options import Json, grouped, print_json
from topics.errors import DefinitionError, SettingsError

if TYPE_CHECKING:
    from engine.project.plan import ProjectPlan

__all__ = ["init"]

ROLES = ("label", "time", "id", "key")


@dataclass(frozen=True)
class ColumnOptions:
    """What the user says of the columns."""

    label: Annotated[str | None, typer.Option(metavar="COLUMN", help="What is to be predicted.")] = None
    time: Annotated[str | None, typer.Option(metavar="COLUMN", help="When the event was.")] = None
    id: Annotated[str | None, typer.Option(metavar="COLUMN", help="Which event it is.")] = None
    key: Annotated[str | None, typer.Option(metavar="COLUMN", help="Whom or what it is about.")] = None
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Leave out what is known only afterwards; repeatable."),
    ] = None
    label_delay: Annotated[
        str | None,
        typer.Option(metavar="SPAN", help="Labels are known so long after the event, on their own topic."),
    ] = None
    label_time: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Labels are known at this time, on their own topic.")
    ] = None


@grouped
def init(
    name: Annotated[
        Path, typer.Argument(metavar="NAME", help="The folder to make, and the pipeline's name.")
    ],
    columns: ColumnOptions,
    sample: Annotated[
        Path, typer.Option("--from", metavar="FILE", help="CSV with a header, or JSON lines (.gz too).")
    ],
    json: Json = False,
) -> None:
    """Begin a project from a sample: guess what its columns are, say why, write a pipeline that runs.

    Writes NAME/ with the pipeline, its test, a compose file and the sample as messages; overwrites nothing.
    """
    from engine.project.plan import LabelTimes, plan_of  # noqa: PLC0415
    from engine.project.roles import AskedRoles  # noqa: PLC0415
    from engine.project.sample import read_rows  # noqa: PLC0415
    from engine.project.writing import write_project  # noqa: PLC0415
    from topics.catalog import check_name  # noqa: PLC0415

    try:
        check_name(name.name)
    except DefinitionError as error:
        raise SettingsError(error.message, hint=error.hint) from None
    if columns.label_delay is not None and columns.label_time is not None:
        raise SettingsError(
            "--label-delay and --label-time both say when labels are known", hint="leave one out"
        )
    known = None
    if columns.label_delay is not None or columns.label_time is not None:
        known = LabelTimes(columns.label_delay, columns.label_time)
    asked = AskedRoles(columns.id, columns.time, columns.key, columns.label, tuple(columns.without or ()))
    plan = plan_of(name.name, read_rows(sample), asked, known)
    files = write_project(name, plan, sample)
    pipeline = name / "pipeline.py"
    if json:
        print_json(_described(plan) | {"folder": str(name), "files": list(files)})
        return
    _print(plan)
    typer.echo(f"\nwrote {name}/: {', '.join(files)}")
    typer.echo(f"next: headrace check {shlex.quote(str(pipeline))}")


def _described(plan: ProjectPlan) -> dict[str, Any]:
    """Return what was understood, as `--json` prints it."""
    return {
        "name": plan.name,
        "task": plan.task,
        "roles": {role: getattr(plan.roles, role).__dict__ for role in ROLES},
        "fields": [field._asdict() for field in plan.fields],
        "features": [*plan.time_parts, *plan.numbers, *plan.words],
        "windows": list(plan.spans),
        "wait": plan.wait,
        "events": len(plan.events),
        "labels": len(plan.labels),
        "notes": list(plan.notes),
    }


def _print(plan: ProjectPlan) -> None:
    from engine.cli.report import out, print_table, table_of  # noqa: PLC0415

    out.print(f"[bold]{plan.name}[/]  {plan.task}, {len(plan.events):,} events")
    table = table_of("role", "column", "why", "others")
    for role in ROLES:
        choice = getattr(plan.roles, role)
        table.add_row(role, choice.column or "(none)", choice.reason, ", ".join(choice.others))
    print_table(table)
    for note in plan.notes:
        out.print(f"- {note}", markup=False)
    out.print(
        "- columns that are known only after the event give the label away: name them, --without COLUMN"
    )
