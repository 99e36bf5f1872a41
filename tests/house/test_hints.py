"""What a message tells a user to type can be typed: every command in the texts of the code.

The commands of documents are those of `test_readme.py`.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import takewhile
from pathlib import Path

import typer
from paths import CHECKOUT
from test_readme import complaint

from engine.cli.main import app

COMMAND = re.compile(r"(?:\A|[\s`(])headrace ((?:[a-z]+)\b[^`\n]*)")
END = re.compile(
    r"   |; |, |\.\.\.|\) | > | (?:creates|goes|shows|lists|records|do it|makes|then|folds|can)\b|\)$"
)
HOLE = "HOLE"
FILES = {"PIPELINE.py", HOLE, f"{HOLE}{HOLE}", "TOPIC"}


@cache
def texts() -> tuple[tuple[str, str], ...]:
    """Every text of the product but docstrings, with its place; what is filled in is a HOLE."""
    found = []
    for package in ("topics", "operators", "engine", "loadtest", "headrace"):
        for path in sorted((CHECKOUT / package).rglob("*.py")):
            found += [(f"{path.relative_to(CHECKOUT)}:{line}", text) for line, text in texts_of(path)]
    return tuple(found)


def texts_of(path: Path) -> Iterator[tuple[int, str]]:
    tree = ast.parse(path.read_text())
    said = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            said |= {id(part) for part in node.values}
            parts = [str(part.value) if isinstance(part, ast.Constant) else HOLE for part in node.values]
            yield node.lineno, "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            yield node.lineno, node.value


@cache
def names() -> frozenset[str]:
    return frozenset(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def commands_of(text: str) -> Iterator[list[str]]:
    for found in COMMAND.findall(text):
        for part in re.split(r"\s+or\s+headrace |\s+then\s+headrace ", found):
            words = shlex.split(END.split(part)[0].rstrip(".,;:)"))
            if words and words[0] in names():
                yield ["headrace", *words]


def lacking(words: list[str]) -> str:
    """Why this cannot be typed as it stands, or the empty string: an option, or an argument left out."""
    if reason := complaint(words):
        return reason
    command, rest = typer.main.get_command(app), words[1:]
    while rest and hasattr(command, "commands"):
        command, rest = command.commands[rest[0]], rest[1:]
    wanted = [one for one in command.params if one.param_type_name == "argument" and one.required]
    given = list(takewhile(lambda word: not word.startswith("-"), rest))
    if len(given) < len(wanted):
        return f"it lacks {wanted[len(given)].name}"
    takes_file = bool(wanted) and "PIPELINE.py" in str(wanted[0].metavar)
    return f"{given[0]} is no file" if takes_file and given[0] not in FILES else ""


def test_what_cannot_be_typed_is_found() -> None:
    assert lacking(["headrace", "models", "show", "VERSION"])
    assert lacking(["headrace", "run", "--from-backtest", "FOLDER"])
    assert lacking(["headrace", "run", "PIPELINE.py", "--fast"])
    assert not lacking(["headrace", "run", "PIPELINE.py", "--from-backtest", "FOLDER"])
    assert not lacking(["headrace", "tail", HOLE, "--headers"])


def test_every_command_that_is_told_can_be_typed() -> None:
    found = [(place, words) for place, text in texts() for words in commands_of(text)]
    assert len(found) > 30
    wrong = [f"{place}: {' '.join(words)}: {why}" for place, words in found if (why := lacking(words))]
    assert not wrong
