"""Alertmanager on a free port, and a webhook that is sometimes away."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.request
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from brokers.process import LOOK_S, READY_DEADLINE_S, program, running
from brokers.prometheus import ready
from engine.kafka.embedded import free_port

NOBODY: Mapping[str, Any] = {"route": {"receiver": "nobody"}, "receivers": [{"name": "nobody"}]}


@contextlib.contextmanager
def alertmanager_server(directory: Path, config: Mapping[str, Any] = NOBODY) -> Iterator[str]:
    """Yield the address of an Alertmanager, which passes nothing on unless its configuration says so."""
    port = free_port()
    file = directory / "alertmanager.yml"
    file.write_text(json.dumps(config))
    command = [
        program("prometheus-alertmanager", "prometheus-alertmanager"),
        f"--config.file={file}",
        f"--storage.path={directory / 'alertmanager'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    address = f"http://127.0.0.1:{port}"
    with running(command, port, directory / "alertmanager.log"):
        deadline = time.monotonic() + READY_DEADLINE_S
        while not ready(address) and time.monotonic() < deadline:
            time.sleep(LOOK_S)
        yield address


def alerts_at(address: str) -> list[dict[str, Any]]:
    """Return the alerts that an Alertmanager holds for active."""
    with urllib.request.urlopen(f"{address}/api/v2/alerts?active=true", timeout=10) as answer:
        alerts: list[dict[str, Any]] = json.load(answer)
        return alerts


class Hook:
    """A webhook: what came, body and headers; it refuses the first `away` requests with 503."""

    def __init__(self, away: int) -> None:
        self.url = ""
        self.away = away
        self.came: list[tuple[bytes, dict[str, str]]] = []

    @property
    def alerts(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body, _ in self.came]

    async def take(self, request: web.Request) -> web.Response:
        if self.away > 0:
            self.away -= 1
            return web.Response(status=503)
        self.came.append((await request.read(), dict(request.headers)))
        return web.Response()


@asynccontextmanager
async def webhook(away: int = 0) -> AsyncGenerator[Hook]:
    """Serve a webhook on a free port."""
    hook, app = Hook(away), web.Application()
    app.router.add_post("/alerts", hook.take)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    hook.url = f"http://127.0.0.1:{port}/alerts"
    try:
        yield hook
    finally:
        await runner.cleanup()
