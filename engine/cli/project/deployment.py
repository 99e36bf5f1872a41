"""`headrace export grafana`, `alerts` and `k8s`: the files that a deployment begins with.

Lives here: where they lie, copying them.  Never here: what is in them (`deploy/` of the repository).

A wheel carries them inside `headrace`; a checkout has them once, under `deploy/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from engine.cli.options import Json, print_json
from engine.new_folder import write_new_folder
from engine.shipped import shipped
from topics.errors import SettingsError

__all__ = ["SHIPPED", "export_alerts", "export_grafana", "export_k8s", "shipped_files"]

SHIPPED: Mapping[str, tuple[str, ...]] = {
    "grafana": ("grafana/dashboards", "grafana/provisioning"),
    "alerts": ("prometheus/rules.yml", "alertmanager/alertmanager.yml"),
    "k8s": ("helm/headrace",),
}
"""Files and folders by what they are for, from `deploy/` on."""
_PLACE = shipped("deploy")
To = Annotated[
    Path, typer.Option("--to", metavar="FOLDER", help="A folder that is yet to be made, or empty.")
]


def export_grafana(to: To = Path("grafana"), json: Json = False) -> None:
    """Copy the dashboards, and how Grafana finds them, into a folder."""
    _export("grafana", to, "mount them as docker-compose.yml does, or import each dashboard", json=json)


def export_alerts(to: To = Path("alerts"), json: Json = False) -> None:
    """Copy Prometheus' alert rules, with runbooks, and a configuration of Alertmanager into a folder."""
    _export("alerts", to, f"promtool check rules {to}/prometheus/rules.yml", json=json)


def export_k8s(to: To = Path("chart"), json: Json = False) -> None:
    """Copy the Helm chart into a folder."""
    _export("k8s", to, f"helm install NAME {to}/helm/headrace", json=json)


def shipped_files(what: str) -> dict[Path, Path]:
    """Return the files by their paths below the new folder.  Raises SettingsError where they are missing."""
    found: dict[Path, Path] = {}
    for part in SHIPPED[what]:
        place = _PLACE / part
        files = sorted(one for one in place.rglob("*") if one.is_file()) if place.is_dir() else [place]
        found |= {one.relative_to(_PLACE): one for one in files if one.is_file()}
    if not found:
        raise SettingsError(
            f"this installation has no {what} files: {_PLACE} is missing", hint="install headrace anew"
        )
    return found


def _export(what: str, to: Path, after: str, *, json: bool) -> None:
    """Copy files, and say so; nothing that is there is touched."""
    files = shipped_files(what)
    write_new_folder(to, {str(path): source.read_bytes() for path, source in files.items()})
    if json:
        print_json({"folder": str(to), "files": [str(path) for path in files]})
        return
    for path in files:
        typer.echo(f"{to / path}")
    typer.echo(f"next: {after}")
