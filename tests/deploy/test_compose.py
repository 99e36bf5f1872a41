"""The compose file: Compose's own loader takes it, and what it promises of each container holds.

Nothing is started: that needs an engine and images.  What the images do with a root file system that they may
not write to is not tried here.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from paths import CHECKOUT
from tools import said, tool

from engine.cli.main import app
from engine.settings import Settings, load_settings
from topics.errors import SettingsError

FILE = CHECKOUT / "docker-compose.yml"
ONE_SHOT = {"topics", "generator"}
OURS = {"topics", "worker", "generator"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The file as Compose reads it: merged, interpolated, checked against the specification."""
    done = said(tool("compose-config"), "-format", "json", FILE)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = compose["services"]
    return found


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("read_only: true", "readonly: true"),
        ("retries: 20", "retries: often"),
        ("volumes:\n  alert", "volume:\n  alert"),
    ],
)
def test_the_loader_refuses_what_is_no_compose_file(tmp_path: Path, right: str, wrong: str) -> None:
    text = FILE.read_text()
    assert right in text
    (tmp_path / "docker-compose.yml").write_text(text.replace(right, wrong))
    assert said(tool("compose-config"), "docker-compose.yml", folder=tmp_path).returncode


def test_every_container_has_only_the_rights_it_needs(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        user, _, _ = service["user"].partition(":")
        assert int(user) > 0, f"{name} is root"
        assert not service.keys() & {"privileged", "network_mode", "pid", "ipc", "cap_add", "devices"}, name
        assert "/tmp" in service["tmpfs"], name


def test_every_port_is_published_on_the_loopback_alone(services: dict[str, Any]) -> None:
    published = [port for service in services.values() for port in service.get("ports", ())]
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}
    assert {"3000", "9090", "9093"} < {port["published"] for port in published}


def test_every_image_is_of_one_release(services: dict[str, Any]) -> None:
    """With its patch version, or made here, of a base with its own."""
    for name, service in services.items():
        if name in OURS:
            assert service["image"] == "headrace:local"
        else:
            assert re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+(-\w+)?", service["image"]), name
    assert [name for name in services if "build" in services[name]] == ["topics"], "built once"
    assert re.search(r"^FROM python:\d+\.\d+\.\d+-", (CHECKOUT / "Dockerfile").read_text())


def test_every_container_that_stays_says_whether_it_is_well(services: dict[str, Any]) -> None:
    for name, service in services.items():
        if name in ONE_SHOT:
            assert service["healthcheck"] == {"disable": True}, name
            assert service.get("restart", "no") == "no", name
        else:
            assert name == "worker" or service["healthcheck"]["test"][0] == "CMD", name
            assert service["restart"] in {"unless-stopped", "on-failure"}, name
    assert "HEALTHCHECK" in (CHECKOUT / "Dockerfile").read_text(), "the worker's"


def test_what_waits_for_a_service_waits_until_it_is_well(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for awaited, how in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if awaited in ONE_SHOT else "service_healthy"
            assert awaited in services
            assert how["condition"] == wanted, f"{name} on {awaited}"


def test_what_is_mounted_is_there(compose: dict[str, Any]) -> None:
    used = set()
    for name, service in compose["services"].items():
        for volume in service.get("volumes", ()):
            if volume["type"] == "bind":
                assert volume["read_only"] is True, name
                assert Path(volume["source"]).is_dir(), name
            else:
                used.add(volume["source"])
    assert used == compose["volumes"].keys()


def test_several_workers_share_the_store_and_clash_on_no_port(services: dict[str, Any]) -> None:
    worker = services["worker"]
    assert worker["deploy"]["replicas"] == 2
    assert "container_name" not in worker
    (port,) = worker["ports"]
    first, last = map(int, port["published"].split("-"))
    assert last - first >= 2
    assert port["target"] == Settings().web.port
    assert worker["environment"]["HEADRACE_STORE_URL"].startswith("redis://redis:")
    (volume,) = worker["volumes"]
    assert worker["environment"]["HEADRACE_STATE_DIR"] == volume["target"]


def test_kafka_writes_to_its_volume_and_its_start_to_memory(services: dict[str, Any]) -> None:
    kafka = services["kafka"]
    (volume,) = kafka["volumes"]
    assert kafka["environment"]["KAFKA_LOG_DIRS"] == volume["target"]
    uid, gid = kafka["user"].split(":")
    assert f"/opt/kafka/config:uid={uid},gid={gid}" in kafka["tmpfs"]


def test_no_container_is_killed_while_it_drains(services: dict[str, Any]) -> None:
    grace = services["worker"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) * 1_000 > Settings().drain_deadline_ms


def test_workers_can_read_their_settings(services: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is none is refused, so that a typing error is found."""
    for name in OURS:
        for variable, value in services[name]["environment"].items():
            monkeypatch.setenv(variable, value)
    settings = load_settings()
    assert settings.kafka.bootstrap_servers == "kafka:19092"
    monkeypatch.setenv("HEADRACE_STORE_URI", "redis://redis:6379/0")
    with pytest.raises(SettingsError, match="HEADRACE_STORE_URI"):
        load_settings()


def test_containers_of_ours_run_commands_that_there_are(services: dict[str, Any]) -> None:
    for name in OURS:
        *words, last = [word for word in services[name]["command"] if not word.startswith("-")]
        command: Any = typer.main.get_command(app)
        for word in words:
            command = command.commands[word]
        assert (CHECKOUT / last).is_file(), name
        options = [word.split("=") for word in services[name]["command"] if word.startswith("--")]
        known = {option for parameter in command.params for option in parameter.opts}
        for option, value in options:
            assert option in known, name
            assert (CHECKOUT / value).is_file(), name


def test_what_watches_finds_what_it_watches(services: dict[str, Any]) -> None:
    """Addresses in configurations are services and ports of the compose file."""
    prometheus = yaml.safe_load((CHECKOUT / "deploy/prometheus/prometheus.yml").read_text())
    (scraped,) = prometheus["scrape_configs"]
    assert scraped["dns_sd_configs"] == [{"names": ["worker"], "type": "A", "port": Settings().web.port}]
    (managers,) = prometheus["alerting"]["alertmanagers"]
    sources = yaml.safe_load(
        (CHECKOUT / "deploy/grafana/provisioning/datasources/datasources.yml").read_text()
    )["datasources"]
    (targets,) = managers["static_configs"]
    addresses = [*targets["targets"], *(source["url"].removeprefix("http://") for source in sources)]
    for address in addresses:
        service, port = address.split(":")
        assert str(services[service]["ports"][0]["target"]) == port
    mounted = {
        volume["target"]: Path(volume["source"])
        for volume in services["grafana"]["volumes"]
        if volume["type"] == "bind"
    }
    (provider,) = yaml.safe_load(
        (mounted["/etc/grafana/provisioning"] / "dashboards/headrace.yml").read_text()
    )["providers"]
    shown = mounted[provider["options"]["path"]]
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (shown / Path(home).name).is_file()
