"""Write docs/cli.md: every command with its arguments, options and an example, from the code.

.venv/bin/python docs/cli_page.py          # writes it anew
.venv/bin/python docs/cli_page.py --check  # exit code 1 where it is not that of the code
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import typer

from engine.cli.main import app
from engine.cli.reference.examples import example_of

PAGE = Path(__file__).with_name("cli.md")
ELSEWHERE = ("bench", "demo")
"""Commands whose options are read where they live."""
HEAD = """# Commands

Made by `.venv/bin/python docs/cli_page.py`: what `--help` says, on one page.

Every command has `-h`; `headrace` itself has `--version` and `--install-completion`. `--json` prints for
scripts, and what goes wrong goes to standard error with a fix.

| exit code | says |
|---|---|
| 0 | done |
| 1 | failed; a backtest that learned nothing too |
| 2 | wrong usage: arguments, settings, a pipeline's file |
| 3 | unhealthy: `doctor` found a fault, `status` somebody missing, a check of state or models failed |
| 4 | skew (`skew`), a shift that lasts (`drift list`), a load test proven worse (`bench compare`) |
| 5 | a rate that was not sustained (`bench`) |

A running race takes commands as messages on `flights.commands` as well, which `headrace models` sends for
you; `pause` and `resume` among them ([how](operations.md#commands)).
"""


def commands() -> Iterator[tuple[str, Any]]:
    """Yield every command with its words; of those that live elsewhere what is there."""

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        if hasattr(command, "commands"):
            for name, inner in command.commands.items():
                yield from walk(inner, (*words, name))
        else:
            name = " ".join(words)
            command = elsewhere(name) if name in ELSEWHERE else command
            yield name, command
            for inner in getattr(command, "commands", {}).values():
                yield f"{name} {inner.name}", inner

    yield from walk(typer.main.get_command(app), ())


def elsewhere(name: str) -> Any:
    """Return a command that is registered by an entry point."""
    (found,) = entry_points(group="headrace.commands", name=name)
    loaded = found.load()
    if isinstance(loaded, typer.Typer):
        return typer.main.get_command(loaded)
    alone = typer.Typer()
    alone.command(name=name)(loaded)
    return typer.main.get_command(alone)


def page() -> str:
    """Return the whole page."""
    found = list(commands())
    rows = ["| command | does |", "|---|---|"]
    rows += [
        f"| [`headrace {name}`](#headrace-{name.replace(' ', '-')}) | {summary(one)} |" for name, one in found
    ]
    sections = [section(name, command) for name, command in found]
    return "\n".join([HEAD, *rows, "", *sections])


def paragraphs(command: Any) -> list[str]:
    """Return the paragraphs of a command's help, each as one line."""
    return [
        " ".join(part.split()) for part in textwrap.dedent(command.help or "").split("\n\n") if part.strip()
    ]


def summary(command: Any) -> str:
    """Return what a command does, in one line of a table."""
    return cell(paragraphs(command)[0])


def section(name: str, command: Any) -> str:
    """Return the part of the page about one command."""
    lines = [f"## headrace {name}", ""]
    for paragraph in paragraphs(command):
        lines += [*textwrap.wrap(paragraph, 108, break_on_hyphens=False, break_long_words=False), ""]
    lines += [
        "```sh",
        example_of(name),
        "```",
        "",
        "| argument, option | default | meaning |",
        "|---|---|---|",
    ]
    lines += [row(one) for one in command.params if not one.hidden and "--help" not in one.opts]
    return "\n".join([*unbroken(lines), ""])


def unbroken(lines: list[str]) -> list[str]:
    """Return lines in which no inline code is cut: a line with an odd backtick takes the next one with it."""
    done: list[str] = []
    for line in lines:
        if done and done[-1].count("`") % 2 and not done[-1].startswith("```"):
            done[-1] += f" {line}"
        else:
            done.append(line)
    return done


def row(parameter: Any) -> str:
    """Return an argument or an option as a row of a table."""
    if parameter.param_type_name == "argument":
        name = parameter.metavar or parameter.name.upper()
        given = "required" if parameter.required else ""
    else:
        kind = "" if parameter.is_flag else f" {parameter.metavar or parameter.name.upper()}"
        name = ", ".join((*parameter.opts, *parameter.secondary_opts)) + kind
        given = "required" if parameter.required else default_of(parameter)
    return f"| `{cell(name)}` | {given} | {cell(parameter.help or '')} |"


def default_of(parameter: Any) -> str:
    """Return a default as it is typed; empty for none."""
    value = parameter.default
    if value is None or value is False or callable(value) or value == ():
        return ""
    return f"`{value}`" if not isinstance(value, list | tuple) else ", ".join(f"`{one}`" for one in value)


def cell(text: str) -> str:
    """Return text that does not end a cell of a table."""
    return text.replace("|", "\\|")


def main() -> None:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        raise SystemExit(PAGE.read_text() != page())
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
