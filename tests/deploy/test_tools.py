"""Tools that cannot be had are said, and one that is not the known one is not run."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from paths import CHECKOUT


@pytest.fixture
def tools(tmp_path: Path) -> ModuleType:
    """The script that installs tools, which installs into a folder of the test's."""
    spec = importlib.util.spec_from_file_location("ci_tools", CHECKOUT / ".ci" / "tools.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.BIN = tmp_path / "bin"  # type: ignore[attr-defined]
    return module


def test_another_binary_is_not_taken(tools: ModuleType) -> None:
    with pytest.raises(ValueError, match="do not run it"):
        tools.known(b"#!/bin/sh")


def test_what_is_missing_is_said_and_the_rest_is_installed(
    tools: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: Path) -> None:
        raise OSError("no route to the registry")

    tools.INSTALLERS = {"away": refuse, "empty": lambda _: None, "there": Path.touch}  # type: ignore[attr-defined]
    assert tools.main() == 1
    said = capsys.readouterr()
    assert "tools: away is not there: no route to the registry" in said.err
    assert "tools: empty is not there" in said.err
    assert said.out == "tools: there installed\n"
    tools.INSTALLERS = {"there": refuse}  # type: ignore[attr-defined]
    assert tools.main() == 0, "another run finds it"
