"""`headrace static`: static features into their store, and a look at them.

Lives here: arguments and what is printed.  Never here: the work (`engine/stores/hashes.py`), the file
(`engine/offline/json_lines.py`).
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from engine.cli.options import Config, Json, print_json, settings_of

__all__ = ["static_app"]

static_app = typer.Typer(help="Static features: what lookup(...) finds.", no_args_is_help=True)

RedisUrl = Annotated[
    str | None,
    typer.Option(
        "--redis-url", help="Redis; default HEADRACE_REDIS_URL (for passwords), or the embedded store."
    ),
]
StateDir = Annotated[Path | None, typer.Option("--state-dir", help="Where the embedded store is.")]


@static_app.command("load")
def static_load(
    file: Annotated[Path, typer.Argument(help='Lines of {"key", "time", "fields"} (.gz too), in any order.')],
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Fill the store: of each key and field the newest value; what the file does not name stays."""
    from engine.offline.json_lines import read_static  # noqa: PLC0415
    from engine.stores.hashes import load_static  # noqa: PLC0415

    rows, fields = asyncio.run(
        load_static(read_static(file), settings_of(config, redis_url=redis_url, state_dir=state_dir))
    )
    if json:
        print_json({"rows": rows, "fields": fields})
        return
    typer.echo(f"{rows} rows read, {fields} fields written\nnext: headrace static get KEY")


@static_app.command("get")
def static_get(
    key: Annotated[str, typer.Argument(help="Such as merchant:7.")],
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
    config: Config = None,
) -> None:
    """Print what the store has of a key, as one JSON object; exit code 1 if that is nothing."""
    from engine.stores.hashes import static_of  # noqa: PLC0415

    fields = asyncio.run(static_of(key, settings_of(config, redis_url=redis_url, state_dir=state_dir)))
    print_json(fields)
    if not fields:
        raise typer.Exit(1)
