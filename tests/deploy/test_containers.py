"""The image: what its file promises, as far as no engine is needed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from paths import CHECKOUT

from engine.settings import Settings

DOCKERFILE = (CHECKOUT / "Dockerfile").read_text()
OPERATIONS = (CHECKOUT / "docs" / "operations.md").read_text()
START_S = 60
"""What a worker may need before it listens: 15 s as measured, with room for a slow machine."""


def seconds(text: str) -> int:
    assert text.endswith("s")
    return int(text[:-1])


@pytest.fixture
def page() -> Iterator[Callable[[int], int]]:
    """`page(status)` serves `/readyz` with a status and returns the port."""
    servers: list[HTTPServer] = []

    def serve(status: int) -> int:
        class Page(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status if self.path == "/readyz" else 404)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        servers.append(HTTPServer(("127.0.0.1", 0), Page))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1].server_port

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_the_image_is_healthy_exactly_while_the_worker_is_ready(page: Callable[[int], int]) -> None:
    options, check = re.search(
        r"^HEALTHCHECK (.+?) CMD (.+)$", DOCKERFILE.replace("\\\n", ""), re.MULTILINE
    ).groups()  # type: ignore[union-attr]
    assert seconds(re.search(r"--start-period=(\S+)", options)[1]) >= START_S  # type: ignore[index]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for status, healthy in ((200, True), (503, False)):
        environment = {"PATH": path, "HEADRACE_WEB__PORT": str(page(status))}
        done = subprocess.run(["/bin/sh", "-c", check], env=environment, capture_output=True, check=False)
        assert (done.returncode == 0) == healthy, done.stderr
    assert f":-{Settings().web.port}}}/readyz" in check


def test_the_image_holds_every_package_and_all_that_a_wheel_brings_along() -> None:
    copied = set(re.findall(r"^COPY (\w+) \1$", DOCKERFILE, re.MULTILINE))
    packages = {path.parent.name for path in CHECKOUT.glob("*/__init__.py")} - {"tests"}
    wheel = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"][
        "wheel"
    ]
    assert packages | {path.split("/")[0] for path in wheel["force-include"]} == copied


def test_the_image_runs_as_the_user_that_compose_and_chart_name() -> None:
    assert "useradd --uid 1000 " in DOCKERFILE
    assert re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE) == ["1000:1000"]
