"""`headrace dev`: a pipeline under development, reloaded whenever its file is saved.

Lives here: its options, its lines, Ctrl-C.  Never here: what is started and when (`engine/local/session.py`).
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.cli.options import PipelineFile, print_json
from topics.errors import SettingsError

__all__ = ["dev"]

PORT = 6066
"""Of the page where nothing else listens there."""
RATE = 50.0


def dev(
    file: PipelineFile,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Publish these events, one JSON object a line (.gz too)."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --data: label messages, by their times.")
    ] = None,
    rate: Annotated[float, typer.Option(min=0.1, max=1e6, help="Records per second of --data.")] = RATE,
    web_port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65_535, help="Port of the page; default 6066, or a free one where that is taken."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Run a pipeline on an embedded broker, with its page, and reload it whenever its file is saved.

    A saved file that does not run is told and the running one stays; the race of the running one goes on with
    what was changed in models and settings.  Broker and state are gone at the end.  Ctrl-C ends it.
    """
    from engine.local.session import DevFeed, DevSession  # noqa: PLC0415

    for path in (data, labels):
        if path is not None and not path.is_file():
            raise SettingsError(f"there is no file {path}", hint="give one JSON object a line, plain or .gz")
    if labels is not None and data is None:
        raise SettingsError("--labels goes with --data", hint="give --data EVENTS.jsonl")
    logging.getLogger("aiokafka").addHandler(logging.NullHandler())  # what goes wrong is raised
    feed = None if data is None else DevFeed(data, labels, rate)

    def told(kind: str, line: str, facts: Mapping[str, Any]) -> None:
        if json:
            print_json({"kind": kind, **facts})
        else:
            typer.echo(line)

    async def run() -> None:
        session = DevSession(file, feed, _port(web_port), told)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, session.stop.set)
        await session.run()

    asyncio.run(run())
    if not json:
        typer.echo(f"stopped: broker and worker are down\nnext: headrace topics create {file}")


def _port(asked: int | None) -> int:
    """Return the port of the page.  Raises SettingsError where the one asked for is taken."""
    from engine.host.pages import check_port  # noqa: PLC0415
    from engine.kafka.embedded import free_port  # noqa: PLC0415

    try:
        check_port("127.0.0.1", asked or PORT, hint="give another --web-port, or leave it out")
    except SettingsError:
        if asked is not None:
            raise
        return free_port()
    return asked or PORT
