"""What would have happened: the same past with another candidate, champion, promotion or serving policy.

Lives here: what can be asked for and what cannot, and both runs side by side.  Never here: reading files and
logs, the second fold (`rerun.py`), tables.

    challenger=FILE.py:NAME    the candidate NAME of another pipeline file, or an object NAME of any file; it
                               races from the first record on, and takes the place of one of its own name
    champion=NAME              serves first
    promotion=Promotion(...)   or FILE.py:NAME; as in a pipeline file, with plain values
    serving=Split({...})       the same, of any policy; serving=Bandit(bandit.UCB(0.3))

Labels that come from outside do not depend on who answered, so they can be used again; where they do
(`outcome="served"`), nothing can be asked.  What was recorded is never taken for what another model would
have scored.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

from river import base, proba

from engine.definition.file import load_module
from engine.definition.pipeline import Pipeline
from engine.offline.backtest import race_report
from engine.offline.paired_comparison import paired_series
from engine.offline.rerun import Past, check_labels, model_factory_of, rerun
from engine.settings import Settings
from engine.worker.model_factory import ModelFactory
from operators.race.candidates import Artefact, candidate_of
from operators.race.evidence import Promotion
from operators.race.routing import (
    BANDITS,
    Bandit,
    Canary,
    FailureGuard,
    Guard,
    Shadow,
    Split,
    Switchback,
)
from topics.errors import DefinitionError

__all__ = ["POLICIES", "Asked", "asked_of", "asked_value", "what_if_report"]

FORMS = "challenger=FILE.py:NAME, champion=NAME, promotion=Promotion(...), serving=Split({...})"
POLICIES: Mapping[str, Callable[..., Any]] = {
    **{one.__name__: one for one in (Split, Switchback, Canary, Bandit, Shadow)},
    **{one.__name__: one for one in (Guard, FailureGuard)},
    **{f"bandit.{one.__name__}": one for one in BANDITS},
    **{f"proba.{one.__name__}": one for one in (proba.Beta, proba.Gaussian)},
}
"""What an expression of a policy may be made of; what else is meant is named in a file."""


class Asked(NamedTuple):
    """A pipeline as somebody wonders about it."""

    pipeline: Pipeline
    changes: tuple[str, ...]
    """As they were asked for."""
    others: frozenset[str]
    """Candidates that are not those of the record."""
    source: ModelFactory
    """Of its models, which have been tried."""


def asked_of(pipeline: Pipeline, changes: Sequence[str], settings: Settings | None = None) -> Asked:
    """Return the pipeline with these changes; `settings` say where states are stored that a log may name.

    Raises DefinitionError for what cannot be asked.
    """
    models: dict[str, Any] = dict(pipeline.candidates)
    options: dict[str, Any] = {}
    others: set[str] = set()
    for change in changes:
        what, _, told = change.partition("=")
        match what.strip():
            case "challenger":
                name, model = _named(told)
                if isinstance(candidate_of(model).start, Artefact):
                    raise DefinitionError(
                        f"`{told}` starts with what it learned elsewhere, maybe from this past",
                        hint="ask without its start: it races from the first record on",
                    )
                models[name] = model
                others.add(name)
            case "champion":
                options |= {"champion": told, "opening": None}
            case "promotion":
                options["promotion"] = asked_value(told, {"Promotion": Promotion})
            case "serving":
                options["serving"] = asked_value(told, POLICIES)
            case _:
                raise DefinitionError(f"`{change}` cannot be asked", hint=f"ask one of: {FORMS}")
    asked = dataclasses.replace(pipeline, models=models, **options)
    check_labels(pipeline)
    check_labels(asked)
    factory = model_factory_of(asked, settings)
    factory.codec(asked.field)  # a model that cannot do its work is named before the past is read
    return Asked(asked, tuple(changes), frozenset(others), factory)


def what_if_report(pipeline: Pipeline, asked: Asked, past: Past) -> dict[str, Any]:
    """Return what a past came to and what it would have come to, as one plain object."""
    unchanged = [name for name in pipeline.models if name not in asked.others]
    again = rerun(asked.pipeline, past, past.places, as_recorded=unchanged, source=asked.source)
    rows, (recorded, otherwise) = paired_series(pipeline, [past.examples, again.examples])
    return {
        "changes": list(asked.changes),
        "examples": len(past.examples),
        "rows": rows,
        "field_changes_left_out": past.field_changes,
        "recorded": {**race_report(past.learner.roster.champion, past.decisions), "series": recorded},
        "what_if": {**race_report(again.learner.roster.champion, again.decisions), "series": otherwise},
        "scores_compared": again.compared,
        "scores_same": again.same,
    }


def _named(told: str) -> tuple[str, Any]:
    """Return name and value of `FILE.py:NAME`: a candidate of the file's pipeline, or an object of it."""
    file, separator, name = told.rpartition(":")
    if not separator or not name:
        raise DefinitionError(f"`{told}` names no object of a file", hint="write FILE.py:NAME")
    module = load_module(Path(file), f"headrace_asked_{Path(file).stem}")
    pipeline = getattr(module, "pipeline", None)
    candidates: Mapping[str, Any] = pipeline.candidates if isinstance(pipeline, Pipeline) else {}
    found = candidates.get(name, getattr(module, name, None))
    if found is None:
        has = [*candidates, *(one for one, value in vars(module).items() if isinstance(value, base.Base))]
        raise DefinitionError(
            f"{file} has no `{name}`",
            hint=f"it has: {', '.join(dict.fromkeys(has))}" if has else "name a candidate or an object of it",
        )
    return name, found


def asked_value(told: str, known: Mapping[str, Callable[..., Any]]) -> Any:
    """Return the value of `Class(...)`, of plain values and other classes of `known`, or of `FILE.py:NAME`.

    Raises DefinitionError for what is neither.
    """
    if "(" not in told:
        return _named(told)[1]
    forms = ", ".join(f"{name}(...)" for name in known if "." not in name)
    try:
        call = ast.parse(told.strip(), mode="eval").body
    except SyntaxError as error:
        raise DefinitionError(f"cannot read `{told}`: {error.msg}", hint=f"write {forms}") from None
    if not isinstance(call, ast.Call) or ast.unparse(call.func) not in known:
        raise DefinitionError(f"cannot read `{told}`", hint=f"write {forms}, or FILE.py:NAME")
    return _made(told, call, known)


def _made(told: str, call: ast.Call, known: Mapping[str, Callable[..., Any]]) -> Any:
    """Return what a call of `known` makes.  Raises DefinitionError where it cannot."""
    name = ast.unparse(call.func)
    made = known[name]
    try:
        options = {str(one.arg): one.value for one in call.keywords}
        given = signature(made).bind(*call.args, **options).arguments
        return made(**{field: _plain(told, field, value, known) for field, value in given.items()})
    except (TypeError, ValueError, AttributeError) as error:
        fields = (f"{name}: {field.annotation}" for name, field in signature(made).parameters.items())
        raise DefinitionError(
            f"cannot read `{told}`: {error}",
            hint=f"{name} takes, as plain values, {', '.join(fields)}; or name one: FILE.py:NAME",
        ) from None


def _plain(told: str, name: str, value: ast.expr, known: Mapping[str, Callable[..., Any]]) -> Any:
    """Return what stands behind a name.  Raises ValueError where it is neither plain nor of `known`."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) in known:
        return _made(told, value, known)
    if isinstance(value, ast.List | ast.Tuple):
        return [_plain(told, name, one, known) for one in value.elts]
    try:
        return ast.literal_eval(value)
    except (ValueError, TypeError):
        raise ValueError(f"{name}={ast.unparse(value)} is no plain value") from None
