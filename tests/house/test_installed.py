"""Installed is as good as cloned: the wheel in an environment of its own, used from another folder.

The environment finds the dependencies in this one, so nothing is downloaded; Headrace itself comes from
the wheel alone.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
from paths import CHECKOUT

from engine.page.site import FILES

FLIGHTS = CHECKOUT / "examples" / "flights"
DEADLINE_S = 180.0


class Installed(NamedTuple):
    """The wheel, and an environment that holds it."""

    wheel: Path
    home: Path

    @property
    def python(self) -> Path:
        return self.home / "bin" / "python"

    def run(self, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in `folder`, a script of the environment where it names one."""
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        script = self.home / "bin" / command[0]
        return subprocess.run(
            [str(script) if script.exists() else command[0], *command[1:]],
            cwd=folder,
            env=clean,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )


def shipped() -> set[str]:
    """Return what of `deploy` is of use without a checkout: all but the scripts that make dashboards."""
    kinds = {".json", ".yml", ".yaml", ".tpl", ".txt"}
    files = (path for path in (CHECKOUT / "deploy").rglob("*") if path.suffix in kinds)
    return {str(path.relative_to(CHECKOUT)) for path in files}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=CHECKOUT, check=True, capture_output=True, timeout=DEADLINE_S)
    (wheel,) = folder.glob("*.whl")
    home = folder / "environment"
    venv.create(home, symlinks=True, with_pip=False)
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    install = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install", "--quiet"]
    install += ["--no-deps", "--no-index", "--disable-pip-version-check", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=DEADLINE_S)
    return Installed(wheel, home)


def test_the_command_works_from_another_folder(installed: Installed, tmp_path: Path) -> None:
    shown = installed.run(tmp_path, "headrace", "--version")
    assert re.fullmatch(r"headrace \d+\.\d+\.\d+\n", shown.stdout), shown.stderr
    assert "Usage: headrace" in installed.run(tmp_path, "headrace", "-h").stdout
    shutil.copy(FLIGHTS / "pipeline.py", tmp_path / "mine.py")
    checked = installed.run(tmp_path, "headrace", "check", "mine.py", "--json")
    assert checked.returncode == 0, checked.stderr
    assert '"champion":"blend"' in checked.stdout


def test_the_demo_brings_its_flights_along(installed: Installed, tmp_path: Path) -> None:
    done = installed.run(tmp_path, "headrace", "demo", "--events", "300")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "predictions    300, exactly one for each event" in done.stdout
    (file,) = re.findall(r"headrace check (\S+)", done.stdout)
    assert (tmp_path / file).is_relative_to(installed.home), "the demo's own next step, in the installation"
    assert (tmp_path / file).read_text() == (FLIGHTS / "pipeline.py").read_text()


def test_what_commands_write_comes_along(installed: Installed, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(
        "id,shop,late\n" + "".join(f"{n},s{n % 3},{n % 2}\n" for n in range(9))
    )
    begun = installed.run(tmp_path, "headrace", "init", "shop", "--from", "rows.csv")
    assert begun.returncode == 0, begun.stderr
    assert (tmp_path / "shop" / "pipeline.py").exists()
    done = installed.run(tmp_path, "headrace", "export", "k8s", "--to", "chart")
    assert done.returncode == 0, done.stderr
    chart = CHECKOUT / "deploy" / "helm" / "headrace" / "Chart.yaml"
    assert (tmp_path / "chart" / "helm" / "headrace" / "Chart.yaml").read_text() == chart.read_text()


def test_a_type_checker_knows_what_a_pipeline_file_imports(installed: Installed, tmp_path: Path) -> None:
    shutil.copy(FLIGHTS / "pipeline.py", tmp_path / "right.py")
    (tmp_path / "wrong.py").write_text("from headrace import Labels\n\nlabels = Labels(topic=7)\n")
    strict = ["--strict", "--untyped-calls-exclude=river", "--python-executable", str(installed.python)]
    done = installed.run(tmp_path, sys.executable, "-m", "mypy", *strict, "right.py", "wrong.py")
    errors = [line for line in done.stdout.splitlines() if "error:" in line]
    assert len(errors) == 1, done.stdout + done.stderr
    assert errors[0].startswith("wrong.py:3:")
    assert errors[0].endswith("[arg-type]")


def test_the_wheel_holds_the_program_and_its_sample(installed: Installed) -> None:
    names = zipfile.ZipFile(installed.wheel).namelist()
    (metadata,) = (name for name in names if name.endswith("/METADATA"))
    rooms = {name.split("/")[0] for name in names} - {metadata.split("/")[0]}
    assert rooms == {"engine", "headrace", "loadtest", "operators", "topics"}
    assert {f"{room}/py.typed" for room in rooms} <= set(names)
    sample = {name.rpartition("/")[2] for name in names if name.startswith("headrace/examples/flights/")}
    assert sample == {"pipeline.py", "departures.jsonl.gz", "arrivals.jsonl.gz"}
    assert {f"engine/page/static/{name}" for name, _ in FILES.values()} <= set(names)
    assert "engine/page/static/uPlot.LICENSE" in names
    assert {f"headrace/{path}" for path in shipped()} <= set(names)
    with zipfile.ZipFile(installed.wheel) as wheel:
        told = wheel.read(metadata).decode()
    assert "Classifier: Typing :: Typed" in told
    assert "Provides-Extra: demo" in told
