"""What the documents say is so: code, commands, links, files, topics, settings, metrics; and the doctests.

Tables that mirror the code are made here from the code and must stand in the document line by line; the
message of a failure is the table to paste.
"""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import shlex
from collections.abc import Iterator
from importlib.metadata import entry_points
from itertools import pairwise
from typing import Any, get_args

import metrics_page
import pytest
import typer
from paths import CHECKOUT
from pydantic import BaseModel

from engine.cli.main import app
from engine.settings import ENV_PREFIX, Settings
from topics import errors
from topics.catalog import FOREVER_MS, Catalog
from topics.codec import decode_command
from topics.messages import CommandWord

ROOT = CHECKOUT
DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "SECURITY.md",
        *sorted((ROOT / "docs").glob("*.md")),
        *ROOT.glob("examples/*/README.md"),
    )
}
README, OPERATIONS = DOCUMENTS["README.md"], DOCUMENTS["docs/operations.md"]
PACKAGES = ("topics", "operators", "engine", "loadtest", "headrace")
LINE_MAX = 110
REGISTERED = {"bench", "demo"}
"""Commands whose options are read where they live."""

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
FILE = re.compile(r"(?:topics|operators|engine|loadtest|docs|tests|examples|deploy)/[\w./-]*\w\.\w+")


def blocks(text: str, *languages: str) -> list[str]:
    return [body for language, body in FENCE.findall(text) if language in languages]


# -- code ---------------------------------------------------------------------------------------------


def test_the_pipeline_shown_is_the_one_that_runs() -> None:
    assert (ROOT / "examples/flights/pipeline.py").read_text() in blocks(README, "python")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_python_block_is_a_committed_file_or_runs(name: str) -> None:
    committed = {path.read_text() for path in ROOT.glob("examples/*/*.py")}
    for block in blocks(DOCUMENTS[name], "python"):
        if block not in committed:
            exec(compile(block, name, "exec"), {})


# -- commands -----------------------------------------------------------------------------------------


def command_lines(text: str) -> Iterator[list[str]]:
    """Every command in shell blocks and in `inline code`, as words, without variables and prompts."""
    lines = [
        line
        for body in blocks(text, "sh", "console", "")
        for line in body.replace("\\\n", " ").splitlines()
        if not line.lstrip().startswith("#")
    ]
    for line in [*lines, *INLINE.findall(FENCE.sub("", text))]:
        try:
            words = shlex.split(line.removeprefix("$ "), comments=True)
        except ValueError:
            continue  # code with an odd quote
        if words:
            yield [words[0].removeprefix(".venv/bin/"), *words[1:]]


def registered_command(name: str) -> Any:
    """The command behind an entry point."""
    found = next(iter(entry_points(group="headrace.commands", name=name)), None)
    assert found is not None, f"`{name}` is not registered here: run `make .venv/.test`"
    loaded = found.load()
    if isinstance(loaded, typer.Typer):
        return typer.main.get_command(loaded)
    alone = typer.Typer()
    alone.command(name=name)(loaded)
    return typer.main.get_command(alone)


def complaint(words: list[str]) -> str:
    """Why this is no `headrace` command, or the empty string."""
    command: Any = typer.main.get_command(app)
    rest = words[1:]
    while rest and hasattr(command, "commands") and not rest[0].startswith("-"):
        found = command.commands.get(rest[0])
        if found is None:
            return f"there is no command {rest[0]!r}"
        command = registered_command(rest[0]) if rest[0] in REGISTERED else found
        rest = rest[1:]
    known = {"-h", "--help"} | {option for parameter in command.params for option in parameter.opts}
    unknown = [word for word in rest if re.match(r"--?[a-z]", word) and word.split("=")[0] not in known]
    return f"{command.name} has no {unknown[0]}" if unknown else ""


def test_a_wrong_command_is_found() -> None:
    assert complaint(["headrace", "fly"])
    assert complaint(["headrace", "run", "x.py", "--fast"])
    assert complaint(["headrace", "bench", "--pipline", "x.py"])
    assert complaint(["headrace", "bench", "compare", "a.json", "b.json", "--rate", "1"])
    assert complaint(["headrace", "demo", "--floods"])
    assert not complaint(["headrace", "topics", "create", "x.py", "--bootstrap-servers", "a:1"])


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_headrace_command_exists_with_its_options(name: str) -> None:
    wrong = [
        f"{' '.join(words)}: {reason}"
        for words in command_lines(DOCUMENTS[name])
        if words[0] == "headrace" and (reason := complaint(words))
    ]
    assert not wrong


def test_every_make_target_and_module_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = [words for text in DOCUMENTS.values() for words in command_lines(text)]
    made = {words[1] for words in used if words[0] == "make" and len(words) > 1}
    assert {"demo", "test"} <= made <= targets
    modules = {words[2] for words in used if words[:2] == ["python", "-m"]}
    assert "loadtest.job_j" in modules
    assert all(importlib.util.find_spec(module) for module in modules)


def test_the_list_of_commands_is_complete() -> None:
    commands: Any = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    text = DOCUMENTS["docs/cli.md"]
    shown = {words[1] for words in command_lines(text) if words[0] == "headrace" and len(words) > 1}
    assert shown == set(commands)


def test_the_command_message_shown_is_one() -> None:
    (message,) = blocks(OPERATIONS, "json")
    assert decode_command(message.encode()).command == "promote"


def test_every_command_has_its_row_and_can_be_typed() -> None:
    _, _, table = OPERATIONS.partition("| `command` | `model_name` | does |")
    first = [row.split("|")[1] for row in table.partition("\n\n")[0].splitlines() if row.startswith("| `")]
    told = {word for cell in first for word in re.findall(r"`(\w+)`", cell)} - {"to"}
    assert told == set(get_args(CommandWord))
    typed: Any = typer.main.get_command(app)
    assert told <= {*typed.commands["models"].commands, *typed.commands["alerts"].commands}


# -- links and files ----------------------------------------------------------------------------------


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_relative_links_lead_somewhere(name: str) -> None:
    for link in LINK.findall(FENCE.sub("", DOCUMENTS[name])):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        assert target.exists(), f"{name}: {link}"
        if anchor:
            assert anchor in map(slug, HEADING.findall(target.read_text())), f"{name}: {link}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_that_are_named_exist(name: str) -> None:
    missing = {path for path in FILE.findall(DOCUMENTS[name]) if not (ROOT / path).exists()}
    assert not missing


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "CONTRIBUTING.md",
        "docs/architecture.md",
        "docs/semantics.md",
        "docs/operations.md",
        "docs/metrics.md",
        "docs/deploy.md",
        "docs/runbooks.md",
    ],
)
def test_lines_fit(name: str) -> None:
    assert not [line for line in DOCUMENTS[name].splitlines() if len(line) > LINE_MAX]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_inline_code_is_closed_on_its_line(name: str) -> None:
    assert not [line for line in FENCE.sub("", DOCUMENTS[name]).splitlines() if line.count("`") % 2]


# -- tables that mirror the code ----------------------------------------------------------------------


def assert_rows(text: str, rows: list[str]) -> None:
    """The rows stand in the text one behind the other, and their table holds no others."""
    lines = text.splitlines()
    assert rows[0] in lines, "\n".join(rows)
    start = lines.index(rows[0])
    end = next(n for n in range(start, len(lines) + 1) if n == len(lines) or not lines[n].startswith("|"))
    assert lines[start:end] == rows, "\n".join(rows)


def _quoted(key: str) -> str:
    return f"`{key}`" if "<" in key else key


def topic_rows() -> list[str]:
    catalog = Catalog("flights", events="flights.departures", labels="flights.arrivals", alerting=True)
    plans = {plan.role: plan for plan in catalog.plan(events=4)}
    rows = []
    for role, name, key, value in catalog.describe():
        plan = plans[role]
        kept = "for ever" if plan.retention_ms == FOREVER_MS else "the broker's default"
        kept = "newest per key" if plan.cleanup == "compact" else kept
        kept = "newest per key, a day" if plan.cleanup == "compact,delete" else kept
        rows.append(
            f"| `{name}` | {_quoted(key)} | {value} | {'events' if plan.partitions == 4 else 1} | {kept} |"
        )
    return rows


def test_the_topics_are_those_of_the_catalog() -> None:
    assert_rows(
        OPERATIONS, ["| topic | key | value | partitions | kept |", "|---|---|---|---|---|", *topic_rows()]
    )


def setting_rows() -> list[str]:
    rows = ["| variable | default |", "|---|---|"]

    def add(model: type[BaseModel], prefix: str) -> None:
        for name, entry in model.model_fields.items():
            if isinstance(entry.default, BaseModel):
                add(type(entry.default), f"{prefix}{name.upper()}__")
            else:
                default = "" if entry.default is None else f"`{str(entry.default).lower()}`"
                default = f"`{entry.default}`" if isinstance(entry.default, str) else default
                rows.append(f"| `{prefix}{name.upper()}` | {default} |")

    add(Settings, ENV_PREFIX)
    return rows


def test_all_settings_are_listed_with_their_defaults() -> None:
    assert_rows(OPERATIONS, setting_rows())


@pytest.mark.parametrize("name", DOCUMENTS)
def test_settings_that_are_named_exist(name: str) -> None:
    known = {row.split("`")[1] for row in setting_rows()[2:]} | {"HEADRACE_DATA"}
    assert {found.rstrip("_") for found in re.findall(r"HEADRACE_[A-Z_]+\b", DOCUMENTS[name])} <= known


def test_the_metrics_are_those_of_a_scrape() -> None:
    page = DOCUMENTS["docs/metrics.md"]
    assert metrics_page.written(page) == page, "run .venv/bin/python docs/metrics_page.py"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_metrics_that_are_named_exist(name: str) -> None:
    families = metrics_page.families()
    known = {sample.name for family in families for sample in family.samples} | {
        family.name for family in families
    }
    named = {found for text in INLINE.findall(DOCUMENTS[name]) for found in re.findall(r"headrace_\w+", text)}
    assert named <= known


def test_every_error_has_its_paragraph() -> None:
    types = [name for name in errors.__all__ if name != "HeadraceError"]
    told = re.findall(r"^\| `(\w+Error)` \|", OPERATIONS, re.MULTILINE)
    assert sorted(set(told)) == sorted(types)
    assert all(told.index(earlier) <= told.index(later) for earlier, later in pairwise(told))


# -- doctests -----------------------------------------------------------------------------------------


def modules() -> list[str]:
    return [
        found.name
        for package in PACKAGES
        for found in pkgutil.walk_packages([str(ROOT / package)], prefix=f"{package}.")
        if not found.name.endswith("__main__")
    ]


@pytest.mark.parametrize("name", modules())
def test_the_examples_in_docstrings_hold(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), report=True)
    assert result.failed == 0
