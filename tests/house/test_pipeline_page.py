"""docs/pipeline.md is the reference of a pipeline file: made from signatures and docstrings, and run."""

from __future__ import annotations

import ast
import inspect
import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

import pytest
from test_readme import DOCUMENTS, FENCE, INLINE, assert_rows, blocks

import headrace
from engine.definition.pipeline import Pipeline
from engine.offline.backtest import Backtest
from headrace import (
    Alert,
    Artefact,
    Bandit,
    Blend,
    Calibration,
    Canary,
    Candidate,
    Challenge,
    Directional,
    Drift,
    Drifted,
    Estimated,
    Every,
    FailureGuard,
    Fair,
    Feedback,
    Guard,
    Importance,
    Invariant,
    Labels,
    LatencyGuard,
    Perturbed,
    Promotion,
    Quantile,
    Queries,
    Release,
    Reservoir,
    Rule,
    Serve,
    Split,
    Switchback,
    Topic,
    Trust,
    Watch,
    Weak,
    Worse,
    Worst,
)
from operators.language.by import Entering, Key, _entering
from operators.language.expressions import Expression
from operators.language.fields import Field, LabelSource
from topics.messages import Record

PAGE = DOCUMENTS["docs/pipeline.md"]
CLASSES = (
    Pipeline, Topic, Labels, Weak, Candidate, Artefact, Promotion, Quantile, Blend, Release, Challenge,
    Every, Drifted, Worse, Drift, Watch, Canary, Guard, LatencyGuard, FailureGuard, Split, Switchback,
    Bandit, Serve, Rule, Alert, Trust, Queries, Reservoir,
    Invariant, Directional, Perturbed, Importance, Feedback, Fair, Calibration, Estimated, Worst,
)  # fmt: skip
WINDOWS = ("tiled", "tumbling", "session", "last_n", "decay")
OPTION = re.compile(r"^`(\w+)`\n((?:    .*\n?|\n)+)", re.MULTILINE)
NAMES_OF_TYPES = {
    "LabelValue | Literal['drop']": "bool, int, float, str",
    "Reservoir | None": "`Reservoir` or None",
    "Queries | None": "`Queries` or None", "BY": "str",
    "Sequence[Weak]": "list of `Weak`", "LabelValue | None": "bool, int, float, str or None",
    "Condition | Callable[[Mapping[str, FeatureValue]], object]": "condition or function",
    "type[str] | type[int] | None": "`str`, `int` or None",
    "AlertSeverity": "str", "AlertChannel | Sequence[AlertChannel] | None": "str, list of str or None",
    "Task": "str", "LossName": "str", "Action": "str", "FeatureValue": "bool, int, float or str",
    "type[msgspec.Struct]": "a Struct",
    "Sequence[metrics.base.Metric] | None": "list of River metrics or None",
    "Mapping[str, Expression]": "dict of expressions", "Mapping[str, Any]": "dict of estimators",
    "Mapping[str, str]": "dict of str", "DriftDetector | BinaryDriftDetector": "a River detector",
    "Sequence[FeatureValue] | None": "list of values or None",
    "tuple[float | None, float | None] | None": "pair of numbers or None",
    "Field | Feature | Condition": "field, feature or condition",
    "Condition | Field": "condition or None", "Duration": "str or int", "str | int": "str or int",
    "int | str": "int or str", "Sequence[Alert] | None": "list of `Alert` or None",
    "Condition": "a condition", "str | None": "str or None",
    "str | int | None": "str, int or None", "Promotion": "`Promotion`", "Topic": "`Topic`",
    "Objective": "str, cost matrix, `Quantile` or a River metric",
    "Objective | None": "as of `Promotion`, or None",
    "Labels": "`Labels`", "OpeningName | None": "str or None",
    "Combine": "str", "LearnWhen": "str", "Correct | None": "str or None",
    "Trust | None": "`Trust` or None", "int | None": "int or None",
    "Sequence[str] | None": "list of str or None", "Mapping[str, float] | None": "dict of float or None",
    "Sequence[Drift] | None": "list of `Drift` or None", "Sequence[Challenge]": "list of `Challenge`",
    "Literal['evidence', 'manual']": "str", "float | None": "float or None",
    "Model": "a River estimator or a `Blend`", "Start": "str or `Artefact`", "Learn": "str",
    "Release | None": "`Release` or None", "Recalibrate | None": "str or None",
    "Calibration | None": "`Calibration` or None", "Estimated | None": "`Estimated` or None",
    "Trigger": "`Every`, `Drifted` or `Worse`", "Literal['fresh', 'champion']": "str",
    "Sequence[str | Cross]": "list of str or crosses",
    "Sequence[ModelTest]": "list of `Invariant`, `Directional` and `Perturbed`",
    "Importance | bool | None": "`Importance`, True or None", "Worst | None": "`Worst` or None",
    "Feedback | None": "`Feedback` or None",
    "Sequence[Fair]": "list of `Fair`", "FairMetric": "str",
    "Sequence[Rule]": "list of `Rule`", "Sequence[str]": "list of str",
    "Policy": "a serving policy", "Serve | None": "`Serve` or None",
    "Watch | None": "`Watch` or None", "Reference": "str",
    "Sequence[float]": "list of float", "Sequence[Guard]": "list of `Guard`",
    "Sequence[CanaryGuard]": "list of guards",
    "tuple[str, FeatureValue] | Literal['found'] | None": 'feature and value, `"found"`, or None',
    "Mapping[str, float]": "dict of float",
    "Prices | None": "dict of float or None", "Literal['key', 'event']": "str", "Outcome": "str",
    "tuple[float, float]": "pair of numbers", "tuple[str, str]": "pair of str", "Any": "a River bandit",
}  # fmt: skip
"""What readers call an annotation; what is not here is written as it stands."""


def one_line(text: str) -> str:
    """What stands before a docstring's examples and its errors, for a cell of a table."""
    said = re.split(r">>>|Raises DefinitionError", text)[0]
    return " ".join(said.split()).replace("|", r"\|")


def option_meanings(documented: type) -> dict[str, str]:
    """The options that a docstring explains, in the form of `Promotion`'s."""
    found = OPTION.findall(inspect.cleandoc(documented.__doc__ or "") + "\n")
    return {name: one_line(text) for name, text in found}


def options(documented: type) -> Iterator[tuple[str, str, Any]]:
    """Every option with its annotation and default."""
    if documented is Entering:
        given = inspect.signature(_entering).parameters
        yield from ((name, str(kind), given[name].default) for name, kind in annotations(Entering).items())
        return
    assert is_dataclass(documented)
    for one in fields(documented):
        if one.init:
            factory = one.default_factory
            default = one.default if factory is MISSING else factory()
            yield one.name, str(one.type), default


def annotations(of: type) -> dict[str, str]:
    return {name: getattr(kind, "__forward_arg__", kind) for name, kind in of.__annotations__.items()}


def default_text(default: Any) -> str:
    if default is MISSING:
        return "must be given"
    if default in ("", ()) or default == {}:
        return "none"
    if is_dataclass(default):
        return f"`{type(default).__name__}()`"
    if isinstance(default, str):
        return f"`{json.dumps(default)}`"
    return f"`{default:,}`".replace(",", "_") if type(default) is int else f"`{default!r}`"


def option_rows(documented: type) -> list[str]:
    meanings = option_meanings(documented)
    rows = ["| option | type | default | meaning |", "|---|---|---|---|"]
    for name, annotation, default in options(documented):
        kind = NAMES_OF_TYPES.get(annotation, annotation)
        assert name in meanings, f"the docstring of {documented.__name__} does not say what `{name}` is"
        rows.append(f"| `{name}` | {kind} | {default_text(default)} | {meanings[name]} |")
    return rows


def call_text(name: str, function: Callable[..., Any]) -> str:
    """A call as users write it: arguments and defaults; `...` is what enters a window."""
    words = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            words.append("...")
        elif parameter.kind is parameter.VAR_POSITIONAL:
            words.append(f"*{parameter.name}")
        elif parameter.default is not parameter.empty:
            default = parameter.default
            words.append(
                f"{parameter.name}={json.dumps(default) if isinstance(default, str) else repr(default)}"
            )
        else:
            words.append(parameter.name)
    return f"`{name}({', '.join(words)})`"


def call_rows(of: dict[str, Callable[..., Any]]) -> list[str]:
    rows = ["| written | is |", "|---|---|"]
    for name, function in of.items():
        said = one_line(inspect.cleandoc(function.__doc__ or "")).removeprefix("Return ")
        assert said, f"{name} has no docstring"
        rows.append(f"| {call_text(name, function)} | {said} |")
    return rows


def methods(of: type, prefix: str) -> dict[str, Callable[..., Any]]:
    found = {name: one for name, one in vars(of).items() if not name.startswith("_") and callable(one)}
    return {f"{prefix}{name}": one for name, one in found.items()}


def words(*names: str) -> dict[str, Callable[..., Any]]:
    return {name: getattr(headrace, name) for name in names}


CALLS = {
    "Conditions of alerts": {
        name: getattr(headrace, name)
        for name in ("signal", "new_category", "changed_schema", "decided", "usual_alerts")
    },
    "Features": words("field", "by", "lookup", "position", "feature"),
    "Aggregates": methods(Key, "by(...)."),
    "Kinds of windows": words(*WINDOWS),
    "Any expression": methods(Expression, "x."),
    "Parts of a time": methods(Field, "t."),
    "Several expressions": words("cross", "coalesce", "indicator", "apply"),
    "The label": methods(LabelSource, "label."),
}


def section(name: str) -> str:
    found = re.split(r"^#+ (.+)$", PAGE, flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2], strict=True))[name]


@pytest.mark.parametrize("documented", CLASSES, ids=lambda documented: documented.__name__)
def test_every_option_stands_in_its_table_with_type_default_and_meaning(documented: type) -> None:
    rows, text = option_rows(documented), section(documented.__name__)
    if options_of := rows[2:]:
        assert_rows(text, rows)
    assert options_of or f"`{documented.__name__}()` has no options" in text


@pytest.mark.parametrize("documented", CLASSES, ids=lambda documented: documented.__name__)
def test_a_docstring_explains_no_option_that_is_not_there(documented: type) -> None:
    assert option_meanings(documented).keys() == {name for name, _, _ in options(documented)}


def test_what_enters_a_window_stands_in_its_table() -> None:
    assert_rows(section("What enters a window"), option_rows(Entering))


@pytest.mark.parametrize("name", CALLS)
def test_every_word_of_the_language_stands_in_its_table(name: str) -> None:
    assert_rows(section(name), call_rows(CALLS[name]))


def test_all_that_a_file_may_import_is_on_the_page() -> None:
    tables = {name for calls in CALLS.values() for name in calls} | {one.__name__ for one in CLASSES}
    assert set(headrace.__all__) - tables == {"label", "Shadow", "backtest"}
    assert "headrace.backtest(" in DOCUMENTS["docs/notebooks.md"]


def test_the_page_names_no_option_that_does_not_exist() -> None:
    known = {name for one in (*CLASSES, Entering) for name, _, _ in options(one)}
    for calls in CALLS.values():
        known |= {name for call in calls.values() for name in inspect.signature(call).parameters}
    named = set()
    for code in INLINE.findall(FENCE.sub("", PAGE)):
        named |= set(re.findall(r"(?<![\w.])(\w+)=(?!=)", code))
    for block in blocks(PAGE, "python"):
        calls = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)]
        ours = [node for node in calls if getattr(node.func, "id", "") in headrace.__all__]
        named |= {word.arg for node in ours for word in node.keywords if word.arg}
    assert named
    assert named <= known, named - known


# -- the examples -------------------------------------------------------------------------------------

START_MS = 1_700_000_000_000


def traffic() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Connections whose kind follows from their service, and what analysts find a minute later."""
    rng, events, labels = random.Random(1), [], []
    for number in range(300):
        kind = rng.choice(["normal", "smurf", "neptune"])
        time = START_MS + 2_000 * number
        service = {"normal": "http", "smurf": "icmp", "neptune": "private"}[kind]
        events.append(
            {"event_id": f"c{number}", "event_time": time, "host": f"h{number % 5}", "service": service,
             "size": rng.uniform(1, 1_000) if number % 7 else None}
        )  # fmt: skip
        labels.append({"event_id": f"c{number}", "label": kind, "label_time": time + 60_000})
    return events, labels


def loads() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Readings of three sensors, each at its own level."""
    rng = random.Random(2)
    return [
        {"event_id": f"r{number}", "event_time": START_MS + 600_000 * number, "sensor": f"s{number % 3}",
         "load": 100.0 * (1 + number % 3) + rng.uniform(-5, 5)}
        for number in range(300)
    ], []  # fmt: skip


@pytest.mark.parametrize(("place", "task", "made"), [(0, "multiclass", traffic), (1, "regression", loads)])
def test_the_examples_answer_and_learn(
    place: int, task: str, made: Callable[[], tuple[list[dict[str, Any]], list[dict[str, Any]]]]
) -> None:
    names: dict[str, Any] = {}
    exec(compile(blocks(PAGE, "python")[place], "docs/pipeline.md", "exec"), names)
    pipeline: Pipeline = names["pipeline"]
    assert pipeline.task == task
    events, labels = (
        [Record("", 0, number, None, None, json.dumps(value).encode()) for number, value in enumerate(of)]
        for of in made()
    )
    backtest = Backtest(pipeline)
    answers: dict[str, Any] = {}
    backtest.play([events], [labels], on_scored=lambda scored: answers.update(
        (answer.event_id, answer) for answer, _, _ in scored
    ))  # fmt: skip
    report = backtest.report()
    assert (len(answers), report["examples"], report["dead_letters"]) == (300, 300, 0)
    last = list(answers.values())[-50:]
    assert all(answer.served_by == "champion" for answer in last)
    assert answers.keys() == {f"{'c' if task == 'multiclass' else 'r'}{number}" for number in range(300)}
    truth = [json.loads(record.value or b"") for record in (labels or events)][-50:]
    if task == "multiclass":
        right = [answer.prediction_label == value["label"] for answer, value in zip(last, truth, strict=True)]
        assert sum(right) == 50
        assert last[-1].features["last"] in {"normal", "smurf", "neptune"}
        assert last[-1].features["smurfs"] == float(last[-1].features["service"] == "icmp")
    else:
        errors = [abs(answer.prediction_score - one["load"]) for answer, one in zip(last, truth, strict=True)]
        assert sum(errors) / len(errors) < 20, "the levels are 100 apart"
