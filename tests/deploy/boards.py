"""The dashboards as they are committed, and what they ask of Prometheus."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from paths import CHECKOUT

GRAFANA = CHECKOUT / "deploy" / "grafana"
BOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in sorted(GRAFANA.glob("dashboards/*.json"))
}


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def as_prometheus_gets_it(expression: str) -> str:
    """Put values in the place of what Grafana fills in; a variable inside of a matcher may be any text."""
    return expression.replace("$__rate_interval", "1m").replace("$__interval", "1m")


def queries(board: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield where a query stands, its expression and its legend."""
    for panel in panels(board):
        for target in panel["targets"]:
            yield panel["title"], as_prometheus_gets_it(target["expr"]), target["legendFormat"]
    for mark in board["annotations"]["list"]:
        if "expr" in mark:
            yield mark["name"], as_prometheus_gets_it(mark["expr"]), ""
