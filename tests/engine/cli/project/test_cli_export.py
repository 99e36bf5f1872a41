"""`headrace export grafana|alerts|k8s`: what lies under deploy/ comes out whole, and overwrites nothing."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import yaml
from paths import CHECKOUT
from typer.testing import CliRunner

from engine.cli.main import app
from engine.cli.project.deployment import SHIPPED
from topics.errors import SettingsError


@pytest.mark.parametrize("what", SHIPPED)
def test_what_is_shipped_comes_out_byte_for_byte(what: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", what, "--to", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)["files"]
    wanted = {
        str(path.relative_to(CHECKOUT / "deploy")): path.read_bytes()
        for part in SHIPPED[what]
        for place in [CHECKOUT / "deploy" / part]
        for path in ([place] if place.is_file() else place.rglob("*"))
        if path.is_file()
    }
    assert len(wanted) > 1
    assert sorted(told) == sorted(wanted)
    assert {name: (tmp_path / "out" / name).read_bytes() for name in told} == wanted
    again = CliRunner().invoke(app, ["export", what, "--to", str(tmp_path / "out")])
    assert isinstance(again.exception, SettingsError)


def test_each_kind_is_what_its_tool_takes(tmp_path: Path) -> None:
    for what in SHIPPED:
        done = CliRunner().invoke(app, ["export", what, "--to", str(tmp_path / what)])
        assert "next: " in done.stdout.splitlines()[-1]
    for dashboard in (tmp_path / "grafana").rglob("*.json"):
        assert json.loads(dashboard.read_text())["panels"]
    assert yaml.safe_load((tmp_path / "alerts/prometheus/rules.yml").read_text())["groups"]
    assert yaml.safe_load((tmp_path / "k8s/helm/headrace/Chart.yaml").read_text())["name"] == "headrace"


def test_a_wheel_carries_them() -> None:
    pyproject = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    packed = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    for parts in SHIPPED.values():
        for part in parts:
            above = [f"deploy/{part.rsplit('/', n)[0]}" for n in range(part.count("/") + 1)] + [
                f"deploy/{part}"
            ]
            assert any(packed.get(one) == f"headrace/{one}" for one in above), part
