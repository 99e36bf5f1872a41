"""Dockerfile, compose file and the Kubernetes example: what they promise, as far as no engine is needed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from paths import CHECKOUT

from engine.host import app as web
from engine.settings import Settings

DOCKERFILE = (CHECKOUT / "Dockerfile").read_text()
OPERATIONS = (CHECKOUT / "docs" / "operations.md").read_text()
START_S = 60
"""What a worker may need before it listens: 15 s as measured, with room for a slow machine."""


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    compose: dict[str, Any] = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text())
    found: dict[str, Any] = compose["services"]
    for service in found.values():
        used = {volume.split(":")[0] for volume in service.get("volumes", ())}
        assert {name for name in used if not name.startswith(".")} <= set(compose["volumes"])
        assert set(service.get("depends_on", ())) <= set(found)
    return found


def seconds(text: str) -> int:
    assert text.endswith("s")
    return int(text[:-1])


def test_kafka_writes_to_its_volume(services: dict[str, Any]) -> None:
    (volume,) = services["kafka"]["volumes"]
    assert services["kafka"]["environment"]["KAFKA_LOG_DIRS"] == volume.split(":")[1]


def test_several_workers_share_the_state_and_clash_on_no_port(services: dict[str, Any]) -> None:
    worker = services["worker"]
    assert "container_name" not in worker
    (published,) = worker["ports"]
    host, first, last, inside = re.fullmatch(r"([\d.]+):(\d+)-(\d+):(\d+)", published).groups()  # type: ignore[union-attr]
    assert host == "127.0.0.1"
    assert int(last) - int(first) >= 2
    assert int(inside) == Settings().web.port
    (volume,) = worker["volumes"]
    assert worker["environment"]["HEADRACE_STATE_DIR"] == volume.split(":")[1]
    (scraped,) = yaml.safe_load((CHECKOUT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert scraped["dns_sd_configs"] == [{"names": ["worker"], "type": "A", "port": int(inside)}]


def test_no_container_is_killed_while_it_drains(services: dict[str, Any]) -> None:
    assert seconds(services["worker"]["stop_grace_period"]) * 1_000 > Settings().drain_deadline_ms


def test_what_waits_for_a_service_waits_until_it_is_well(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for awaited, how in service.get("depends_on", {}).items():
            one_shot = "restart" not in services[awaited] and awaited == "topics"
            wanted = "service_completed_successfully" if one_shot else "service_healthy"
            assert how == {"condition": wanted}, f"{name} on {awaited}"
            assert one_shot or "build" in services[awaited] or "healthcheck" in services[awaited]


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


def test_the_image_holds_every_package() -> None:
    copied = set(re.findall(r"^COPY (\w+) \1$", DOCKERFILE, re.MULTILINE))
    packages = {path.parent.name for path in CHECKOUT.glob("*/__init__.py")} - {"tests"}
    assert packages | {"examples"} == copied


def test_the_kubernetes_example_lets_a_worker_start_and_drain() -> None:
    (block,) = re.findall(r"^```yaml\n(.*?)^```", OPERATIONS, re.MULTILINE | re.DOTALL)
    pod = yaml.safe_load(block)["spec"]["template"]["spec"]
    (worker,) = pod["containers"]
    assert pod["terminationGracePeriodSeconds"] * 1_000 > Settings().drain_deadline_ms
    startup, live, ready = (worker[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness"))
    assert startup["periodSeconds"] * startup["failureThreshold"] >= START_S
    assert startup["httpGet"]["path"] == live["httpGet"]["path"] == "/livez"
    assert ready["httpGet"]["path"] == "/readyz"
    served = Path(web.__file__).read_text()
    assert all(f'"{path}"' in served for path in ("/livez", "/readyz"))
    assert worker["ports"] == [{"name": "web", "containerPort": Settings().web.port}]
    settings = {entry["name"]: entry.get("value") or entry["valueFrom"] for entry in worker["env"]}
    assert settings["HEADRACE_WEB__TOKEN"] == {"secretKeyRef": {"name": "flights", "key": "web-token"}}
    assert settings["HEADRACE_STATE_DIR"] == worker["volumeMounts"][0]["mountPath"]
