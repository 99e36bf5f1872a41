"""Groups of options: what a user sees of one, what a command gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from engine.cli.options import grouped

told: list[object] = []


@dataclass(frozen=True)
class Below:
    place: Annotated[str, typer.Option(help="Where.")] = "here"


@dataclass(frozen=True)
class Above(Below):
    loud: Annotated[bool, typer.Option("--loud", help="How.")] = False


@grouped
def say(
    word: Annotated[str, typer.Argument()], group: Above, times: Annotated[int, typer.Option(min=1)] = 1
) -> None:
    """Say it."""
    told.append((word, group, times))


def test_a_command_has_the_fields_of_its_groups_as_options() -> None:
    app = typer.Typer()
    app.command()(say)
    assert CliRunner().invoke(app, ["a"]).exit_code == 0
    assert CliRunner().invoke(app, ["b", "--loud", "--place", "there", "--times", "3"]).exit_code == 0
    assert told == [("a", Above(), 1), ("b", Above("there", True), 3)]
    assert CliRunner().invoke(app, ["c", "--times", "0"]).exit_code == 2
    helped = CliRunner().invoke(app, ["--help"]).output
    assert "Say it." in helped
    assert helped.index("--loud") < helped.index("--place") < helped.index("--times")
