"""The pages of a worker: `/metrics`, `/livez`, `/readyz`.

Lives here: paths and status codes.  Never here: the server (Faust's), the numbers
(`metrics.py`).  `/livez` says that the loop turns, never more; `/readyz` says that this
process can answer events: partitions assigned, state restored, models caught up.
"""

from __future__ import annotations

from typing import Any

from engine.metrics import Metrics
from engine.worker.loop import Worker

__all__ = ["add_pages"]

EXPOSITION = "text/plain; version=0.0.4"
"""Prometheus' text format; the charset is added by the server."""


def add_pages(app: Any, worker: Worker, metrics: Metrics) -> None:
    """Register the pages with a Faust app."""

    async def metrics_page(view: Any, _request: Any) -> Any:
        return view.bytes(metrics.exposition(), content_type=EXPOSITION)

    async def live(view: Any, _request: Any) -> Any:
        return _verdict(view, worker.unhealthy())

    async def ready(view: Any, _request: Any) -> Any:
        return _verdict(view, worker.unhealthy() or worker.not_ready())

    for path, handler in (
        ("/metrics", metrics_page),
        ("/livez", live),
        ("/healthz", live),
        ("/readyz", ready),
    ):
        app.page(path, name=path.strip("/"))(handler)


def _verdict(view: Any, reason: str) -> Any:
    return view.text(f"{reason or 'ok'}\n", status=503 if reason else 200)
