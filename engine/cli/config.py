"""`headrace config`: which settings hold here, and where each one comes from.

Lives here: the table of settings, what of a secret may be shown.  Never here: what they mean
(`engine/settings.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from engine.cli.options import Json, KafkaOptions, grouped, print_json

if TYPE_CHECKING:
    from engine.settings import Settings

__all__ = ["ShownSetting", "config_app", "shown_settings"]

MASK = "**********"

config_app = typer.Typer(help="The settings of this machine.", no_args_is_help=True)


class ShownSetting(NamedTuple):
    """A setting as it is shown."""

    name: str
    """Of its variable."""
    value: str
    source: str
    """`flag`, `environment`, `file` or `default`."""


@config_app.command("show")
@grouped
def config_show(source: KafkaOptions, json: Json = False) -> None:
    """Show every setting as it holds here, and whether a flag, the environment, the file or none says so.

    Of a secret only whether it is set is shown; of signing keys their names and ids too.
    """
    from engine.cli.report import print_table, table_of  # noqa: PLC0415
    from engine.settings import origins  # noqa: PLC0415

    flags = {"kafka": {"bootstrap_servers": source.bootstrap_servers}} if source.bootstrap_servers else {}
    rows = list(shown_settings(source.settings(), origins(source.config, **flags)))
    if json:
        print_json([row._asdict() for row in rows])
        return
    table = table_of("setting", "value", "from")
    for row in rows:
        table.add_row(row.name, row.value, row.source)
    print_table(table)


def shown_settings(settings: Settings, sources: Mapping[str, str]) -> Iterator[ShownSetting]:
    """Yield the settings, with secrets masked; `sources` are those of `engine.settings.origins`."""
    from pydantic import BaseModel  # noqa: PLC0415

    from engine.settings import ENV_PREFIX  # noqa: PLC0415

    for name, value in settings:
        parts = dict(value) if isinstance(value, BaseModel) else {"": value}
        for part, held in parts.items():
            path = f"{name}__{part}" if part else name
            shown = _keys(settings) if name == "signing_keys" and held else _text(held)
            yield ShownSetting(f"{ENV_PREFIX}{path.upper()}", shown, sources.get(path, "default"))


def _keys(settings: Settings) -> str:
    """Return names and ids of the signing keys."""
    from engine.worker.assembly import signing_keys  # noqa: PLC0415 - it imports River

    return ", ".join(f"{name}={MASK} (id {id_})" for name, id_ in signing_keys(settings).names.items())


def _text(value: Any) -> str:
    """Return a value as it is shown.

    What is of no kind that is known to be harmless is masked: a setting that is added is no leak.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return ", ".join(f"{name}={MASK}" for name in value)
    return str(value) if isinstance(value, str | int | float | Path) else MASK
