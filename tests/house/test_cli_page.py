"""Every command, found by looking: an example that can be typed, `--json` where it prints, its page."""

from __future__ import annotations

import shlex
from itertools import takewhile
from typing import Any

import cli_page
import pytest
from test_readme import complaint
from typer.testing import CliRunner

from engine.cli.main import app
from engine.cli.reference.examples import COMMAND_EXAMPLES, example_of

COMMANDS: dict[str, Any] = dict(cli_page.commands())
WITHOUT_JSON = {
    "run": "a worker: its output is its log, JSON where no terminal is",
    "tail": "prints one JSON object a line",
    "static get": "prints one JSON object",
    "export jsonschema": "prints a JSON document",
    "export asyncapi": "prints a JSON document",
    "models card": "prints a document",
    "dlq show": "prints one JSON object",
    "demo": "a live table, for people",
}
"""Commands that have no `--json`, and why not."""


def test_there_are_commands_and_no_example_is_of_none() -> None:
    assert len(COMMANDS) > 50
    assert COMMAND_EXAMPLES.keys() == COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_its_example_can_be_typed_and_stands_in_its_help(name: str) -> None:
    line = example_of(name)
    words = shlex.split(line)
    assert not complaint(words)
    arguments = [word for word in words[1 + len(name.split()) :] if word != "--"]
    given = list(takewhile(lambda word: not word.startswith("--"), arguments))
    wanted = [one for one in COMMANDS[name].params if one.param_type_name == "argument" and one.required]
    assert len(given) >= len(wanted)
    options = [one for one in COMMANDS[name].params if one.param_type_name == "option" and one.required]
    assert not [one.opts for one in options if not {*one.opts} & {*words}]
    helped = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert helped.exit_code == 0
    assert f"Example: {line}" in " ".join(helped.output.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_it_prints_for_scripts_or_says_why_not(name: str) -> None:
    has = any("--json" in one.opts for one in COMMANDS[name].params)
    assert has != (name in WITHOUT_JSON)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_and_option_is_explained(name: str) -> None:
    silent = [one.name for one in COMMANDS[name].params if not one.help and one.name != "help"]
    assert not silent


def test_the_page_of_commands_is_made_of_them() -> None:
    page = cli_page.PAGE.read_text()
    assert page == cli_page.page(), "run .venv/bin/python docs/cli_page.py"


def test_groups_and_commands_end_at_wrong_usage_with_code_2() -> None:
    for words in (["init"], ["models", "nothing"], ["check", "--nothing"], ["runs", "diff", "1"]):
        assert CliRunner().invoke(app, words).exit_code == 2
