"""The gate of the house: rooms, signs, imports, names, functions, and the length of the walk.

What is no gate, and why: the length of a file or a class.  A file is as long as its idea; cut at a limit, it
becomes two files that nobody understands alone.  `python -m pytest tests/house/test_rooms.py -s` prints the
longest files, the fattest classes and the walk.
"""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import re
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from paths import CHECKOUT
from walk import PRODUCT, Walk, walk_of_event, walk_of_label

RANK = {"topics": 0, "operators": 1, "engine": 2, "loadtest": 3, "headrace": 4}
PURE = ("topics", "operators", "engine/machines")
BANNED_IN_PURE = {
    "asyncio", "time", "random", "os", "socket", "logging", "pathlib", "threading", "subprocess",
    "faust", "aiokafka", "redis", "structlog", "prometheus_client",
}  # fmt: skip
BELOW = {
    "operators/language": set(),
    "operators/windows": {"operators/language"},
    "operators/rules": {"operators/language", "operators/windows"},
    "operators/models": set(),
    "operators/race": {"operators/models", "operators/drift"},
    "operators/monitor": {"operators/language", "operators/models", "operators/race"},
    "operators/join": set(),
    "operators/drift": set(),
    "operators/claims": set(),
    "operators/rekeying": {"operators/language"},
    "engine/machines": {"engine/definition"},
}
"""Which other packages of their floor these may import; a package that is not here may import any."""
FOLDER_FILES_MAX = 15
FUNCTION_LINES_MAX = 70
EVENT_FILES_MAX, EVENT_LINES_MAX = 13, 810
BLEND_FILES, BLEND_LINES_MAX = ("operators/models/guards.py", "operators/models/mixture.py"), 900
LABEL_FILES_MAX = 31
SHOWN = 12
"""Longest files and fattest classes that are printed."""


@cache
def sources() -> tuple[Path, ...]:
    return tuple(sorted(path for room in PRODUCT for path in (CHECKOUT / room).rglob("*.py")))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def name_of(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


def package_of(path: Path) -> str:
    return name_of(path.parent)


# -- folders and signs --------------------------------------------------------------------------------


def test_no_two_test_files_have_one_name() -> None:
    """pytest imports them by their names alone."""
    names = Counter(path.name for path in (CHECKOUT / "tests").rglob("test_*.py"))
    assert [name for name, files in names.items() if files > 1] == []


def test_no_folder_is_crowded() -> None:
    files = [*sources(), *sorted((CHECKOUT / "tests").rglob("*.py"))]
    crowds = Counter(map(package_of, files))
    assert not {package: count for package, count in crowds.items() if count > FOLDER_FILES_MAX}


def test_every_file_says_what_lives_there() -> None:
    assert not [name_of(path) for path in sources() if not ast.get_docstring(tree(path))]


@pytest.mark.parametrize("room", sorted({package_of(path) for path in sources()}))
def test_every_package_has_its_sign(room: str) -> None:
    """What lives here, what never does, and the order in which to read every file and package of it."""
    sign = ast.get_docstring(tree(CHECKOUT / room / "__init__.py")) or ""
    assert "Lives here:" in sign
    assert "Never here:" in sign
    _, found, order = sign.partition("Read in this order:")
    assert found
    order = order.split("\n\n", maxsplit=1)[0]
    inside = {path.stem for path in (CHECKOUT / room).glob("*.py")} - {"__init__"}
    inside |= {path.parent.name for path in (CHECKOUT / room).glob("*/__init__.py")}
    assert not {name for name in inside if f"`{name}`" not in order}


# -- imports ------------------------------------------------------------------------------------------


def modules_imported(path: Path, *, at_load: bool) -> Iterator[str]:
    """Yield the full names of the modules a file imports; `at_load` leaves out what functions import."""
    pending: list[ast.AST] = [tree(path)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in modules() else node.module
        elif at_load and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        elif at_load and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
        else:
            pending += ast.iter_child_nodes(node)


@cache
def modules() -> dict[str, Path]:
    """Return every module of the product by its full name."""
    found = {}
    for path in sources():
        parts = path.relative_to(CHECKOUT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    room, package = path.relative_to(CHECKOUT).parts[0], package_of(path)
    imported = set(modules_imported(path, at_load=False))
    floors = {name.split(".")[0] for name in imported}
    assert not {name for name in floors if name in RANK and RANK[name] > RANK[room]}
    beside = {package_of(modules()[name]) for name in imported if name in modules()} - {package, room}
    beside = {other for other in beside if other.startswith(f"{room}/")}
    if package in BELOW:
        assert beside <= BELOW[package]


@pytest.mark.parametrize("path", [path for path in sources() if name_of(path).startswith(PURE)], ids=name_of)
def test_thinking_files_touch_no_clock_and_no_world(path: Path) -> None:
    assert not {name.split(".")[0] for name in modules_imported(path, at_load=False)} & BANNED_IN_PURE


def test_every_banned_name_can_be_imported() -> None:
    assert {name for name in BANNED_IN_PURE if name in sys.stdlib_module_names} >= {"asyncio", "time", "os"}
    # Once imported, Faust's module has no spec.
    unknown = {
        name for name in BANNED_IN_PURE if name not in sys.modules and not importlib.util.find_spec(name)
    }
    assert not unknown


def test_no_import_goes_in_a_circle() -> None:
    left = {
        name: {other for other in modules_imported(path, at_load=True) if other in modules()}
        for name, path in modules().items()
    }
    while leaves := {name for name, imported in left.items() if not imported & left.keys()}:
        left = {name: imported for name, imported in left.items() if name not in leaves}
    # What only leads into a circle is no part of it.
    while roots := left.keys() - set().union(*left.values()):
        left = {name: imported for name, imported in left.items() if name not in roots}
    assert not sorted(left)


# -- names and functions ------------------------------------------------------------------------------


def definitions(path: Path) -> set[str]:
    """Return the names that a module's top level defines, not imports."""
    names: set[str] = set()
    for node in tree(path).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def public_names(path: Path) -> set[str]:
    """Return what `__all__` says."""
    for node in tree(path).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def test_every_public_name_is_defined_once() -> None:
    homes: dict[str, list[str]] = {}
    for path in sources():
        for name in public_names(path) & definitions(path):
            homes.setdefault(name, []).append(name_of(path))
    assert not {name: files for name, files in homes.items() if len(files) > 1}


def test_no_function_outgrows_its_screen() -> None:
    long = []
    for path in sources():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = lines_of(node)
                if lines > FUNCTION_LINES_MAX:
                    long.append(f"{name_of(path)}: {node.name}: {lines} lines")
    assert not long


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function with its signature and decorators, but for its docstring."""
    first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
    said = function.body[0] if ast.get_docstring(function) else None
    documented = (said.end_lineno or 0) - said.lineno + 1 if said else 0
    return (function.end_lineno or 0) - first + 1 - documented


def test_a_signature_is_part_of_a_function() -> None:
    (function,) = ast.parse(
        '@decorated\ndef command(\n    a,\n    b,\n):\n    """Said\n    twice."""\n    return a\n'
    ).body
    assert isinstance(function, ast.FunctionDef)
    assert lines_of(function) == 6


def test_no_code_is_made_of_text() -> None:
    made = [
        f"{name_of(path)}:{node.lineno}"
        for path in sources()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).removeprefix("builtins.") in {"exec", "eval", "compile"}
    ]
    assert not made


# -- the walk -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def event_walk(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    return asyncio.run(walk_of_event(tmp_path_factory.mktemp("event"), champion="adaptive"))


@pytest.fixture(scope="module")
def blended_walk(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    return asyncio.run(walk_of_event(tmp_path_factory.mktemp("blended"), champion=None))


@pytest.fixture(scope="module")
def label_walk(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    return asyncio.run(walk_of_label(tmp_path_factory.mktemp("label")))


def test_the_walk_of_an_event_fits_one_sitting(event_walk: Walk) -> None:
    table = event_walk.table("one event answered by one model, from the poll to its prediction's batch")
    print(f"\n{table}")
    assert not event_walk.generated, table
    assert len(event_walk.lines) <= EVENT_FILES_MAX, table
    assert sum(event_walk.lines.values()) <= EVENT_LINES_MAX, table


def test_the_walk_to_a_blend_is_the_same_and_two_files_more(event_walk: Walk, blended_walk: Walk) -> None:
    """The guard of a model that no champion of the other walk needs, and the mean of several scores."""
    table = blended_walk.table("one event answered by a blend, from the poll to its prediction's batch")
    print(f"\n{table}")
    assert not blended_walk.generated, table
    assert blended_walk.lines.keys() - event_walk.lines.keys() == set(BLEND_FILES), table
    assert not event_walk.lines.keys() - blended_walk.lines.keys(), table
    assert sum(blended_walk.lines.values()) <= BLEND_LINES_MAX, table


def test_the_walk_of_a_label_to_a_swap_fits_one_sitting(label_walk: Walk) -> None:
    table = label_walk.table("one label, from the poll to a champion swap")
    print(f"\n{table}")
    assert not label_walk.generated, table
    assert len(label_walk.lines) <= LABEL_FILES_MAX, table


def test_the_walk_is_told(event_walk: Walk, label_walk: Walk) -> None:
    """Every file of an event's walk in its order and no other, then those that only a label enters."""
    page = (CHECKOUT / "docs" / "architecture.md").read_text()
    _, _, chapter = page.partition("## How one event walks through the files")
    events, found, labels = chapter.partition("\n## ")[0].partition("Then the label comes")
    assert found
    assert all(f"`{path}`" in events for path in BLEND_FILES)
    wanted = list(event_walk.lines), [path for path in label_walk.lines if path not in event_walk.lines]
    for text, paths in zip((events, labels), wanted, strict=True):
        told = re.findall(r"^\d+\. `([\w/]+\.py)`", text, re.MULTILINE)
        assert told == paths, "\n".join(paths)


# -- what is printed ---------------------------------------------------------------------------------


def test_where_to_look_for_a_second_idea() -> None:
    """Prints, and judges nothing."""
    longest = sorted(((path.read_text().count("\n"), name_of(path)) for path in sources()), reverse=True)
    print("\nlongest files", *(f"{lines:6}  {name}" for lines, name in longest[:SHOWN]), sep="\n")
    fattest = sorted(map(fatness, classes()), reverse=True)
    print("fattest classes: attributes, methods")
    print(*(f"{attributes:6} {methods:3}  {name}" for attributes, methods, name in fattest[:SHOWN]), sep="\n")
    folders = sum(1 for path in sources() if path.name == "__init__.py")
    print(f"{len(longest)} files in {folders} packages, {sum(lines for lines, _ in longest)} lines")


def classes() -> Iterator[tuple[Path, ast.ClassDef]]:
    for path in sources():
        yield from ((path, node) for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef))


def fatness(found: tuple[Path, ast.ClassDef]) -> tuple[int, int, str]:
    """Return how many attributes and methods a class has, and its place."""
    path, node = found
    methods = [part for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]
    attributes = {ast.unparse(part.target) for part in node.body if isinstance(part, ast.AnnAssign)}
    for method in methods:
        for part in ast.walk(method):
            if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
                attributes |= {part.attr} if ast.unparse(part.value) == "self" else set()
    return len(attributes), len(methods), f"{name_of(path)}: {node.name}"
