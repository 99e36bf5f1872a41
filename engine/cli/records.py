"""`headrace send` and `headrace tail`: what a user types to write topics and to look into them.

Lives here: their arguments and what they say at the end.  Never here: the work (`publish.py`,
`topic_lines.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Annotated

import typer

from engine.cli.options import Config, Servers, settings_of
from engine.definition.file import load_pipeline
from topics.errors import SettingsError

__all__ = ["send", "tail"]


def tail(
    topic: str,
    bootstrap_servers: Servers = None,
    config: Config = None,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Start with the oldest record.")
    ] = False,
    count: Annotated[
        int | None, typer.Option("-n", "--count", min=1, help="Stop after so many records.")
    ] = None,
    headers: Annotated[bool, typer.Option("--headers", help="Show headers too.")] = False,
    claims: Annotated[
        bool, typer.Option("--claims", help="Show the claim records of workers too (docs/messages.md).")
    ] = False,
) -> None:
    """Print the records of a topic as they come, one JSON object a line."""
    from engine.cli.topic_lines import tail_topic  # noqa: PLC0415

    settings = settings_of(config, bootstrap_servers)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(
            tail_topic(
                settings.kafka,
                topic,
                from_beginning=from_beginning,
                count=count,
                headers=headers,
                claims=claims,
            )
        )


def send(
    target: Annotated[str, typer.Argument(metavar="PIPELINE.py|TOPIC", help="Where the lines go.")],
    file: Annotated[
        Path | None,
        typer.Argument(help="For a topic: one JSON object a line (.gz too); - for standard input."),
    ] = None,
    events: Annotated[
        Path | None, typer.Option(help="For a pipeline: event messages, one JSON object a line (.gz too).")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="For a pipeline: label messages, one JSON object a line (.gz too).")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="For a topic: field whose value is the record's key.")
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(help="For a topic: field whose value is the record's timestamp; default: now."),
    ] = None,
    bootstrap_servers: Servers = None,
    config: Config = None,
) -> None:
    """Publish files to a pipeline's two topics, merged by time; or the lines of one file to any topic."""
    settings = settings_of(config, bootstrap_servers)
    if events is None and labels is None:
        from engine.cli.topic_lines import send_file  # noqa: PLC0415

        if file is None:
            raise SettingsError(
                "there is nothing to send",
                hint="headrace send PIPELINE.py --events E --labels L   or   headrace send TOPIC FILE",
            )
        sent = asyncio.run(send_file(settings.kafka, target, file, key=key, time=time))
        typer.echo(f"sent {sent} records to {target}\nnext: headrace tail {target} --from-beginning")
        return
    if file is not None or key is not None or time is not None:
        raise SettingsError(
            "--events and --labels go to a pipeline, whose definition says keys and times",
            hint="leave FILE, --key and --time out",
        )
    from engine.offline.publish import send_files  # noqa: PLC0415

    pipeline = load_pipeline(Path(target))
    published = asyncio.run(send_files(settings.kafka, pipeline, events=events, labels=labels))
    for note in published.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(
        f"sent {published.events:,} events and {published.labels:,} labels, by time\n"
        f"next: headrace tail {pipeline.catalog['predictions']} --from-beginning"
    )
