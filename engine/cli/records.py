"""`headrace send` and `headrace tail`: what a user types to write topics and to look into them.

Lives here: their arguments, what they say at the end, what a line of `tail` looks like.  Never here: sending
(`publish.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from engine.cli.options import Json, KafkaOptions, grouped, print_json
from engine.definition.file import load_pipeline
from topics.errors import SettingsError

if TYPE_CHECKING:
    from engine.settings import KafkaSettings
    from topics.messages import Record

__all__ = ["send", "tail", "text_of_bytes", "value_shown"]

WAITING_MAX = 1_000
"""Records that wait to be printed."""


@grouped
def tail(
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="Any topic.")],
    kafka: KafkaOptions,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Start with the oldest record.")
    ] = False,
    count: Annotated[
        int | None, typer.Option("-n", "--count", min=1, help="Stop after so many records.")
    ] = None,
    to_end: Annotated[
        bool, typer.Option("--to-end", help="Stop where the topic ends now, instead of following it.")
    ] = False,
    headers: Annotated[bool, typer.Option("--headers", help="Show headers too.")] = False,
    claims: Annotated[
        bool, typer.Option("--claims", help="Show the claim records of workers too (docs/messages.md).")
    ] = False,
) -> None:
    """Print the records of a topic as they come, one JSON object a line."""
    settings = kafka.settings()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(
            _tail(
                settings.kafka,
                topic,
                from_beginning=from_beginning,
                to_end=to_end,
                count=count,
                headers=headers,
                claims=claims,
            )
        )


@grouped
def send(
    target: Annotated[str, typer.Argument(metavar="PIPELINE.py|TOPIC", help="Where the lines go.")],
    kafka: KafkaOptions,
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
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.1, max=1e6, help="For a pipeline: records per second at most; default: all at once."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Publish files to a pipeline's two topics, merged by time; or the lines of one file to any topic."""
    settings = kafka.settings()
    if events is None and labels is None:
        from engine.offline.publish import send_file  # noqa: PLC0415

        if file is None:
            raise SettingsError(
                "there is nothing to send",
                hint="headrace send PIPELINE.py --events E --labels L   or   headrace send TOPIC FILE",
            )
        if rate is not None:
            raise SettingsError("--rate is for the files of a pipeline", hint="leave --rate out")
        sent = asyncio.run(send_file(settings.kafka, target, file, key=key, time=time))
        if json:
            print_json({"sent": sent, "topic": target})
        else:
            typer.echo(f"sent {sent} records to {target}\nnext: headrace tail {target} --from-beginning")
        return
    if file is not None or key is not None or time is not None:
        raise SettingsError(
            "--events and --labels go to a pipeline, whose definition says keys and times",
            hint="leave FILE, --key and --time out",
        )
    from engine.offline.publish import send_files  # noqa: PLC0415

    pipeline = load_pipeline(Path(target))
    published = asyncio.run(send_files(settings.kafka, pipeline, events=events, labels=labels, rate=rate))
    if json:
        print_json(published._asdict())
        return
    for note in published.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(
        f"sent {published.events:,} events and {published.labels:,} labels, by time\n"
        f"next: headrace tail {pipeline.catalog['predictions']} --from-beginning"
    )


async def _tail(
    kafka: KafkaSettings,
    topic: str,
    *,
    from_beginning: bool,
    to_end: bool,
    count: int | None,
    headers: bool,
    claims: bool,
) -> None:
    """Print the records of `topic`, one JSON object a line, until `count` of them, its end or interrupted.

    Without `claims` the claim records of workers are left out, and the end says how many.
    """
    from engine.kafka.log_reader import log_bounds, read_log  # noqa: PLC0415
    from topics.headers import record_type_of  # noqa: PLC0415

    queue: asyncio.Queue[Record | None] = asyncio.Queue(maxsize=WAITING_MAX)
    hidden = 0

    async def follow(partition: int, start: int, until: int | None) -> None:
        nonlocal hidden
        async for records in read_log(kafka, topic, partition, start, until):
            for record in records:
                if not claims and record_type_of(record.headers) == "claim":
                    hidden += 1
                else:
                    await queue.put(record)

    async def tell_the_end(following: list[asyncio.Task[None]]) -> None:
        await asyncio.wait(following)
        await queue.put(None)

    bounds = await log_bounds(kafka, topic)
    first = {number: (start if from_beginning else end, end) for number, (start, end) in bounds.items()}
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(follow(partition, start, end if to_end else None))
                for partition, (start, end) in first.items()
            ]
            tasks.append(group.create_task(tell_the_end(tasks[:])))
            for _ in itertools.repeat(None) if count is None else range(count):
                record = await queue.get()
                if record is None:
                    break
                line = orjson.dumps(_shown(record, headers=headers))
                sys.stdout.write(line.decode() + "\n")
                if queue.empty():
                    sys.stdout.flush()
            for task in tasks:
                task.cancel()
    finally:
        if hidden:
            sys.stderr.write(f"left out: {hidden} claim records of workers; --claims shows them\n")


def _shown(record: Record, *, headers: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp_ms,
        "key": text_of_bytes(record.key),
        "value": value_shown(record.value),
    }
    if headers:
        shown["headers"] = {name: text_of_bytes(value) for name, value in record.headers}
    return shown


def value_shown(value: bytes | None) -> Any:
    """Return a JSON value as it is; anything else as text, so that dead letters can be looked at too."""
    if value is None:
        return None
    try:
        return orjson.Fragment(value) if orjson.loads(value) is not None else None
    except orjson.JSONDecodeError:
        return text_of_bytes(value)


def text_of_bytes(value: bytes | None) -> str | None:
    """Return bytes as text, what is no UTF-8 replaced."""
    return None if value is None else value.decode("utf-8", "replace")
