"""`headrace alerts`: which alerts there are, one of them with all that is known, what somebody says of it.

Lives here: arguments, tables, words.  Never here: what lies on the topic (`engine/alerts/reading.py`), what
an acknowledgement does (`operators/monitor/acks.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.deciding import AskOptions, send_command
from engine.cli.options import Json, KafkaOptions, PipelineFile, grouped, print_json
from engine.definition.file import load_pipeline
from topics.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

    from engine.definition.pipeline import Pipeline
    from engine.settings import Settings
    from operators.monitor.acks import Precision
    from topics.messages import AlertRecord

__all__ = ["alerts_app"]

alerts_app = typer.Typer(help="The alerts of a pipeline.", no_args_is_help=True)
SHOWN = 20
AlertId = Annotated[str, typer.Argument(metavar="ALERT_ID", help="The id of an alert, as `list` says it.")]


@alerts_app.command("list")
@grouped
def alerts_list(
    file: PipelineFile,
    options: KafkaOptions,
    every: Annotated[
        bool, typer.Option("--all", help="Those that are over too, not only what fires and the newest.")
    ] = False,
    json: Json = False,
) -> None:
    """List alerts: those that fire, and the newest of the others."""
    pipeline, settings = _loaded(file, options)
    alerts, said = asyncio.run(_told(pipeline, settings))
    known = _newest(alerts)
    firing = [one for one in known if one.state == "firing"]
    others = [one for one in known if one.state != "firing"]
    shown = [*firing, *(others if every else others[:SHOWN])]
    precision = _precision(pipeline, said)
    if json:
        from msgspec import to_builtins  # noqa: PLC0415

        listed = [to_builtins(one) | {"acked": _word(said.get(one.alert_id))} for one in shown]
        judged = {policy: one._asdict() | {"precision": one.share} for policy, one in precision.items()}
        print_json({"alerts": listed, "precision": judged})
        return
    _print(shown, said, precision)
    if len(shown) < len(known):
        typer.echo(f"{len(known) - len(shown)} more are over: --all")


@alerts_app.command("show")
@grouped
def alerts_show(file: PipelineFile, alert_id: AlertId, options: KafkaOptions, json: Json = False) -> None:
    """Show every record of one alert, and what was said of it."""
    from msgspec import to_builtins  # noqa: PLC0415

    pipeline, settings = _loaded(file, options)
    alerts, said = asyncio.run(_told(pipeline, settings))
    records = [one for one in alerts if one.alert_id == alert_id]
    _check_known(records, alert_id, file)
    acked = _word(said.get(alert_id))
    if json:
        print_json({"records": to_builtins(records), "acked": acked})
        return
    for name, value in to_builtins(records[-1]).items():
        typer.echo(f"{name}: {_moment(value) if name in {'time', 'since'} else value}")
    typer.echo(f"acked: {acked}")
    for one in records:
        typer.echo(f"  {_moment(one.time)} {one.state}")


@alerts_app.command("ack")
@grouped
def alerts_ack(
    file: PipelineFile,
    alert_id: AlertId,
    options: AskOptions,
    false_alarm: Annotated[bool, typer.Option("--false", help="It told of nothing.")] = False,
) -> None:
    """Say that somebody has seen an alert, and with --false that it told of nothing."""
    pipeline, settings = _loaded(file, options)
    if not options.dry_run:
        alerts, _ = asyncio.run(_told(pipeline, settings))
        _check_known([one for one in alerts if one.alert_id == alert_id], alert_id, file)
    send_command(
        file, "ack", options, then=f"headrace alerts list {file}", alert_id=alert_id, false_alarm=false_alarm
    )


def _loaded(file: Path, options: KafkaOptions) -> tuple[Pipeline, Settings]:
    pipeline = load_pipeline(file)
    if not pipeline.policies:
        raise SettingsError(f"{pipeline.name} has no alerts", hint="alerts=None has the usual ones")
    return pipeline, options.settings()


def _check_known(records: list[AlertRecord], alert_id: str, file: Path) -> None:
    if not records:
        raise SettingsError(
            f"there is no alert {alert_id}", hint=f"ids are in `headrace alerts list {file} --all`"
        )


async def _told(pipeline: Pipeline, settings: Settings) -> tuple[list[AlertRecord], dict[str, bool]]:
    """Return the records of alerts, oldest first, and the last word on each: whether it was a false alarm."""
    from engine.alerts.reading import TAIL_MAX, acks_in, alert_tail  # noqa: PLC0415
    from engine.kafka.log_reader import record_tail  # noqa: PLC0415

    catalog, kafka = pipeline.catalog, settings.kafka
    alerts = [one for _, one in await alert_tail(kafka, catalog["alerts"])]
    return alerts, acks_in(await record_tail(kafka, catalog["decisions"], TAIL_MAX))


def _newest(alerts: Iterable[AlertRecord]) -> list[AlertRecord]:
    from engine.alerts.reading import newest  # noqa: PLC0415

    return list(reversed(newest(alerts).values()))


def _precision(pipeline: Pipeline, said: dict[str, bool]) -> dict[str, Precision]:
    from operators.monitor.acks import Acks  # noqa: PLC0415

    acks = Acks(pipeline.name, (one.name for one in pipeline.policies))
    for alert_id, false_alarm in said.items():
        if not acks.refusal(alert_id):
            acks.ack(alert_id, false_alarm=false_alarm)
    return acks.precision()


def _print(shown: list[AlertRecord], said: dict[str, bool], precision: dict[str, Precision]) -> None:
    from rich.markup import escape  # noqa: PLC0415

    from engine.cli.report import print_table, table_of  # noqa: PLC0415

    table = table_of("id", "state", "severity", "since", "says", "acked")
    for one in shown:
        cells: tuple[Any, ...] = (one.alert_id, one.state, one.severity, _moment(one.since), one.says)
        table.add_row(*(escape(str(cell)) for cell in cells), _word(said.get(one.alert_id)))
    print_table(table)
    for policy, judged in precision.items():
        typer.echo(f"{policy}: {judged.acked} judged, {judged.false} false, precision {judged.share:.2f}")


def _word(false_alarm: bool | None) -> str:
    return {None: "", True: "false", False: "true"}[false_alarm]


def _moment(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="seconds")
