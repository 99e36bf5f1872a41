"""Loading a pipeline: the user's file is run and its `pipeline` returned.

Lives here: loading, and what is said where that fails.  Never here: what a pipeline is (`pipeline.py`).
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from topics.errors import DefinitionError, HeadraceError

if TYPE_CHECKING:
    from engine.definition.pipeline import Pipeline

__all__ = ["load_module", "load_pipeline"]

NAMED_MAX = 40
"""Attributes named where none is close to what was written."""
_NOT_EXPORTED = re.compile(r"cannot import name '(?P<name>\w+)' from '(?P<module>[\w.]+)'")
_CALL = re.compile(r"(?:(?P<owner>\w+)\.)?(?P<name>\w+)\(\) (?:missing|got|takes)")
_GATHERED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_UNEXPECTED = re.compile(r"unexpected keyword argument '(?P<argument>\w+)'")


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
    """Return what was likely meant, or is missing; empty where nobody can say."""
    if isinstance(error, AttributeError):
        return _attribute_meant(error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return f"mend the name, or install it where Headrace runs: {sys.executable} -m pip install {package}"
    if isinstance(error, ImportError) and (found := _NOT_EXPORTED.search(str(error))):
        return _close(found["name"], dir(sys.modules.get(found["module"])))
    if isinstance(error, TypeError):
        return _call_meant(str(error))
    if isinstance(error, NameError) and error.name:
        return _close(error.name, _exported())
    return ""


def _attribute_meant(error: AttributeError) -> str:
    """Return a suggestion for a misspelt attribute of an object; empty where there is none."""
    if not error.name:
        return ""
    attributes = [name for name in dir(error.obj) if not name.startswith("_")]
    if close := _close(error.name, attributes):
        return close
    if isinstance(error.obj, ModuleType):
        return ""
    return f"it has: {', '.join(attributes)}" if 0 < len(attributes) <= NAMED_MAX else ""


def _call_meant(said: str) -> str:
    """Return how something of Headrace is called that was called with other arguments; empty for the rest."""
    if not (found := _CALL.match(said)):
        return ""
    called = _called(found["owner"] or "", found["name"])
    if called is None:
        return ""
    parameters = [one for one in inspect.signature(called).parameters.values() if one.name != "self"]
    if unknown := _UNEXPECTED.search(said):
        names = [one.name for one in parameters]
        close = _close(unknown["argument"], names)
        return close or f"it takes: {', '.join(names)}"
    needed = [one.name for one in parameters if one.default is one.empty and one.kind not in _GATHERED]
    return f"it is called as {called.__name__}({', '.join(needed)})"


def _called(owner: str, name: str) -> Any:
    """Return the class or the method of Headrace of this name; None where it is nobody's."""
    import operators  # noqa: PLC0415 - as above
    from operators.language.by import Key  # noqa: PLC0415

    homes = {"Key": Key}
    if name == "__init__":
        engine = sys.modules.get("engine")
        return getattr(engine, owner, None) if owner in getattr(engine, "__all__", ()) else None
    if owner in homes:
        return getattr(homes[owner], name, None)
    return getattr(operators, name, None) if not owner and name in operators.__all__ else None


def _exported() -> list[str]:
    """Return the names that a pipeline file imports."""
    rooms = (sys.modules.get("engine"), sys.modules.get("operators"))
    return [name for room in rooms for name in getattr(room, "__all__", ())]


def _close(written: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(written, list(names), 1)
    return f"did you mean `{close[0]}`?" if close else ""


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Make the neighbours of the user's file importable, as they are when it is run by itself."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
