"""One name for a pipeline file: what `headrace` exports, and that no folder of a user's gets between."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from paths import CHECKOUT
from typer.testing import CliRunner

import engine
import headrace
import operators
from engine.cli.main import app
from engine.offline.runs.results import run_backtest

FLIGHTS = CHECKOUT / "examples" / "flights" / "pipeline.py"
CONSOLE = str(Path(sys.executable).with_name("headrace"))


def python(folder: Path, *arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python in `folder`, with `path` before everything that is installed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def taken(tmp_path: Path) -> Path:
    """A folder in which every name of ours is taken, as package or as module."""
    for package in ("engine", "operators"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('the user owns this one')\n")
    for module in ("topics", "loadtest"):
        (tmp_path / f"{module}.py").write_text("mine = 1\n")
    return tmp_path


def test_headrace_exports_all_that_a_pipeline_file_needs() -> None:
    assert headrace.__all__ == sorted({*engine.__all__, *operators.__all__, "backtest"})
    assert headrace.backtest is run_backtest
    for name in {*engine.__all__, *operators.__all__}:
        home = engine if name in engine.__all__ else operators
        assert getattr(headrace, name) is getattr(home, name)
    with pytest.raises(AttributeError, match="no attribute 'Pipelines'"):
        getattr(headrace, "Pipelines")  # noqa: B009


def test_every_package_tells_type_checkers_that_it_is_typed() -> None:
    rooms = {path.parent.name for path in CHECKOUT.glob("*/__init__.py")} - {"tests"}
    assert rooms == {path.parent.name for path in CHECKOUT.glob("*/py.typed")}


def test_the_command_runs_where_every_name_of_ours_is_taken(taken: Path) -> None:
    for command in ([CONSOLE], ["-m", "headrace"]):
        done = python(taken, *command, "check", str(FLIGHTS), "--json", path=taken)
        assert (done.returncode, done.stderr) == (0, "")
        assert '"champion":"blend"' in done.stdout


def test_a_session_where_every_name_of_ours_is_taken_imports_ours(taken: Path) -> None:
    done = python(taken, "-c", "from headrace import Pipeline, by; import topics; print(topics.__file__)")
    assert done.stdout.strip() == str(CHECKOUT / "topics" / "__init__.py"), done.stderr


def test_a_package_of_the_users_that_was_there_first_is_named(taken: Path) -> None:
    done = python(taken, "-c", "import topics, headrace")
    assert done.returncode == 1
    assert f"{taken / 'topics.py'} has been imported under its name" in done.stderr
    assert "fix: rename that one" in done.stderr


def test_a_pipeline_file_that_wants_its_own_topics_is_told_why_it_gets_ours(taken: Path) -> None:
    (taken / "pipeline.py").write_text("from topics import mine\n")
    done = python(taken, "-m", "headrace", "check", "pipeline.py")
    assert done.returncode == 2
    assert "`import topics` is Headrace's package topics here, not topics.py: rename that one" in done.stderr


@pytest.mark.parametrize("words", [[], ["check"], ["topics", "plan"], ["bench"]])
def test_the_short_help_is_the_help(words: list[str]) -> None:
    short, long = (CliRunner().invoke(app, [*words, option]).output for option in ("-h", "--help"))
    assert "Usage:" in short
    assert short == long


def test_the_version_is_that_of_the_installation() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"headrace {version('headrace')}\n"


def test_the_shell_completes_commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("_HEADRACE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "headrace to")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert python(tmp_path, CONSOLE).stdout.split() == ["topics"]
