"""Loading a pipeline: the user's file is run and its `pipeline` returned.

Lives here: loading, and what is said where that fails.  Never here: what a pipeline is (`pipeline.py`).
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from topics.errors import DefinitionError, HeadraceError

if TYPE_CHECKING:
    from engine.definition.pipeline import Pipeline

__all__ = ["load_module", "load_pipeline"]

NAMED_MAX = 40
"""Attributes named where none is close to what was written."""


def load_pipeline(path: Path) -> Pipeline:
    """Run the user's file and return its `pipeline`.

    Raises DefinitionError naming the file where it is missing, fails or holds no pipeline.
    """
    from engine.definition.pipeline import Pipeline  # noqa: PLC0415 - River takes seconds to import

    pipeline = getattr(load_module(path), "pipeline", None)
    if not isinstance(pipeline, Pipeline):
        raise DefinitionError(
            f"{path} has no `pipeline`", hint="end the file with `pipeline = Pipeline(name=..., ...)`"
        )
    return pipeline


def load_module(path: Path, name: str = "headrace_pipeline") -> ModuleType:
    """Run the user's file and return it as a module of this name.

    Raises DefinitionError naming the file where it is missing or fails.
    """
    if not path.is_file():
        raise DefinitionError(f"there is no file {path}", hint="give the path of your pipeline's Python file")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise DefinitionError(f"{path} is no Python file", hint="give the path of your pipeline's .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with _importable(path.parent):
        try:
            spec.loader.exec_module(module)
        except HeadraceError as error:
            if line := _line(path, error):
                error.message = f"{path}{line}: {error.message}"
            raise
        except Exception as error:
            raise DefinitionError(
                f"{path}{_line(path, error)} does not run: {type(error).__name__}: {error}",
                hint=_meant(error) or _namesake(path.parent) or f"`python {path}` shows where",
            ) from error
    return module


def _namesake(folder: Path) -> str:
    """Return what to do about a neighbour of the user's file that Headrace's own package hides, or ""."""
    for room in ("topics", "operators", "engine", "loadtest", "headrace"):
        for place in (folder / room, folder / f"{room}.py"):
            loaded = sys.modules.get(room)
            own = Path(loaded.__file__ or "").resolve().parent if loaded is not None else None
            if place.exists() and own not in {None, place.resolve()}:
                return f"`import {room}` is Headrace's package {room} here, not {place}: rename that one"
    return ""


def _line(path: Path, error: Exception) -> str:
    """Return `, line n` of the user's file where it failed; empty where the error came from elsewhere."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}" if Path(error.filename or "") == path.absolute() else ""
    lines = [
        at.lineno
        for at in traceback.extract_tb(error.__traceback__)
        if Path(at.filename) == path.absolute() and at.lineno
    ]
    return f", line {lines[-1]}" if lines else ""


def _meant(error: Exception) -> str:
    """Return a suggestion for a misspelt attribute of an object; empty where there is none."""
    if not isinstance(error, AttributeError) or not error.name or isinstance(error.obj, ModuleType):
        return ""
    attributes = [name for name in dir(error.obj) if not name.startswith("_")]
    close = difflib.get_close_matches(error.name, attributes, 1)
    if close:
        return f"did you mean `{close[0]}`?"
    return f"it has: {', '.join(attributes)}" if 0 < len(attributes) <= NAMED_MAX else ""


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Make the neighbours of the user's file importable, as they are when it is run by itself."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
