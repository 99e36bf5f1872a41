"""Transforms against their plainest reading, alone and inside a pipeline of windows; what they refuse."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import compose, linear_model, preprocessing
from test_scorer import play, runs_of, scorer_of
from window_oracle import GRACE, Payment, features_of, histories, value_of

from engine import Labels, Pipeline, Topic
from engine.offline.backtest import backtest
from operators import apply, by, coalesce, cross, field, indicator, label, lookup
from operators.language.conditions import Condition
from operators.language.expressions import Expression
from operators.language.fields import nodes, parts, without_descriptions
from operators.language.plan import compile_features
from operators.language.types import FieldTypes
from operators.rekeying.stages import looked_up, plan_stages
from operators.windows.evaluate import FUNCTION_FAILURES, calculation
from operators.windows.features import Features
from topics.codec import decode_prediction
from topics.errors import DefinitionError
from topics.messages import Event, Record


def per_unit(amount: float, fee: float) -> float:
    return amount / fee


def first_letter(shop: str) -> str | None:
    return shop if shop == "x" else None


def wrong(_: object) -> object:
    return b"bytes"


AMOUNT, SHOP, FEE, KIND = field("amount"), field("shop"), field("fee"), field("kind")
MEAN = by("card").mean("amount", "40ms")


def some(value: Any, read: Callable[[Any], Any]) -> Any:
    """Return what `read` makes of a value that is there; None where it has no finite result."""
    try:
        found = None if value is None else read(value)
    except (ValueError, OverflowError, ZeroDivisionError):
        return None
    return None if isinstance(found, float) and not math.isfinite(found) else found


def both(left: Any, right: Any, read: Callable[[Any, Any], Any]) -> Any:
    return None if left is None or right is None else some((left, right), lambda pair: read(*pair))


def hashed(text: str, buckets: int) -> str:
    return str(int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") % buckets)


READINGS: dict[str, tuple[Expression, Callable[[Payment, Any], Any]]] = {
    "log": (AMOUNT.log(), lambda p, _: some(p.amount, math.log)),
    "log1p": (AMOUNT.log1p(), lambda p, _: some(p.amount, math.log1p)),
    "sqrt": (AMOUNT.sqrt(), lambda p, _: some(p.amount, math.sqrt)),
    "abs": (AMOUNT.abs(), lambda p, _: some(p.amount, abs)),
    "clip": (AMOUNT.clip(-1, 2.5), lambda p, _: some(p.amount, lambda v: min(max(v, -1), 2.5))),
    "floor": (AMOUNT.clip(0, None), lambda p, _: some(p.amount, lambda v: max(v, 0))),
    "bucket": (
        AMOUNT.bucket([-1, 0, 2]),
        lambda p, _: some(p.amount, lambda v: sum(v >= b for b in (-1, 0, 2))),
    ),
    "sin": (FEE.cyclic_sin(4), lambda p, _: some(p.fee, lambda v: math.sin(math.tau * v / 4))),
    "cos": (FEE.cyclic_cos(4), lambda p, _: some(p.fee, lambda v: math.cos(math.tau * v / 4))),
    "hashed": (SHOP.hashed(50), lambda p, _: some(p.shop, lambda v: hashed(v, 50))),
    "cross": (cross(SHOP, KIND, FEE), lambda p, _: both(p.shop, p.fee, lambda s, f: f"{s}×{p.kind}×{f}")),
    "pair": (
        cross(SHOP, KIND).hashed(64),
        lambda p, _: some(p.shop, lambda v: hashed(f"{v}×{p.kind}", 64)),
    ),
    "coalesce": (coalesce(AMOUNT, FEE, MEAN), lambda p, m: first_of(p.amount, p.fee, m)),
    "missing": (indicator(AMOUNT.is_missing()), lambda p, _: p.amount is None),
    "flag": (
        indicator((AMOUNT > 0) & (FEE > 1)),
        lambda p, _: sql_and(some(p.amount, lambda v: v > 0), some(p.fee, lambda v: v > 1)),
    ),
    "above": (indicator(AMOUNT > MEAN), lambda p, m: both(p.amount, m, lambda a, b: a > b)),
    "none_yet": (indicator(~MEAN.is_missing()), lambda _, m: m is not None),
    "applied": (
        apply(per_unit, AMOUNT, FEE, returns=float),
        lambda p, _: both(p.amount, p.fee, lambda a, b: a / b),
    ),
    "letter": (apply(first_letter, SHOP, returns=str), lambda p, _: p.shop if p.shop == "x" else None),
    "wrong": (apply(wrong, KIND, returns=float), lambda *_: None),
    "mean_log": (MEAN.log1p().default(-1.0), lambda _, m: -1.0 if (v := some(m, math.log1p)) is None else v),
    "sum": (indicator(KIND == "sale") + 1, lambda p, _: (p.kind == "sale") + 1),
}


def first_of(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def sql_and(a: bool | None, b: bool | None) -> bool | None:
    return False if False in (a, b) else None if None in (a, b) else True


DEFINITION: dict[str, Expression] = {name: expression for name, (expression, _) in READINGS.items()}


def close(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-12, abs_tol=1e-12)
    return type(a) is type(b) and a == b


@settings(max_examples=60, deadline=None)
@given(history=histories(size=30), cut=st.integers(0, 30))
def test_every_transform_is_its_reading_in_any_batches_and_by_itself(history: list[Event], cut: int) -> None:
    counts: Counter[tuple[str, str]] = Counter()
    features = features_of(DEFINITION, counts=counts)
    rows = features.step_events(history[:cut]) + features.step_events(history[cut:])
    means = features_of({"mean": MEAN}).step_events(history)
    for event, row, mean in zip(history, rows, means, strict=True):
        for name, (_, read) in READINGS.items():
            expected = read(event.value, mean.get("mean"))
            assert (name in row) is (expected is not None), name
            assert expected is None or close(row[name], expected), (name, row[name], expected)
        assert list(row) == [name for name in DEFINITION if name in row]
    assert repr(rows) == repr(features_of(DEFINITION).step_events(history))
    divided = sum(e.value.fee == 0 and e.value.amount is not None for e in history)
    failed = {per_unit: divided, wrong: len(history)}
    assert counts == Counter(
        {(FUNCTION_FAILURES, f"{__name__}:{f.__name__}"): count for f, count in failed.items()}
    )


@settings(max_examples=20, deadline=None)
@given(history=histories(size=30))
def test_transforms_of_windows_by_other_keys_equal_those_of_one_partition(history: list[Event]) -> None:
    """The stage by card gives numbers; the plan of the answer makes of them what the whole plan does."""
    plan = compile_features(DEFINITION, Payment, grace_ms=GRACE, max_events_per_key=99, task="regression")
    stages = plan_stages(plan, "kind")
    (stage,) = stages.rekeyed
    values = Features(stage.plan).step_events(history)
    rows = Features(stages.answer).step_events(history, [looked_up(value) for value in values])
    assert repr(rows) == repr(Features(plan).step_events(history))


SEEN: list[tuple[object, ...]] = []


def recorded(*values: object) -> float:
    SEEN.append(values)
    return 1.0


def test_functions_get_their_inputs_in_order_and_only_when_all_are_there() -> None:
    SEEN.clear()
    expression = apply(recorded, AMOUNT, KIND, AMOUNT, returns=float)
    assert value_of(expression, amount=None, kind="sale") is None
    assert value_of(expression, amount=2.0, kind="sale") == 1.0
    assert SEEN == [(2.0, "sale", 2.0)]


@pytest.mark.parametrize(
    ("returns", "result", "expected"),
    [
        (float, 3, 3.0), (float, True, None), (float, math.inf, None), (float, "3", None),
        (float, 10**400, None), (int, 3, 3), (int, 3.0, None), (int, False, None), (bool, True, True),
        (bool, 1, None), (str, "é" * 256, "é" * 256), (str, "é" * 257, None), (str, b"a", None),
        (str, None, None),
    ],
)  # fmt: skip
def test_a_result_has_the_type_that_was_declared(returns: Any, result: Any, expected: Any) -> None:
    counts: Counter[tuple[str, str]] = Counter()
    given_back = apply(echo, field("x"), returns=returns)
    found = calculation(given_back, {}, counts)(SimpleNamespace(x=Box(result)), {}, {})
    assert (found, type(found)) == (expected, type(expected))
    assert bool(counts) is (expected is None and result is not None)


class Box:
    def __init__(self, value: object) -> None:
        self.value = value


def echo(box: Box) -> object:
    return box.value


def test_walks_and_words_reach_every_part() -> None:
    inner = [by("card").count("1h"), field("a"), lookup("m:{b}", "risk", default=0.0)]
    whole = coalesce(apply(per_unit, *inner[:2], returns=float).describe("x"), indicator(inner[2] > 1).log())
    plain = without_descriptions(whole)
    assert "describe" not in repr(plain)
    assert plain == without_descriptions(
        coalesce(apply(per_unit, *inner[:2], returns=float), indicator(inner[2] > 1).log())
    )
    assert not any(type(part).__name__ == "Described" for part in parts(plain))
    assert set(inner) <= set(nodes(plain))
    assert set(inner) <= {part for part in parts(plain) if isinstance(part, Expression)}


class Trip(msgspec.Struct):
    card: str
    at: datetime
    tags: list[str]
    amount: float = 0.0
    hour: int = 0


def test_a_type_for_every_transform() -> None:
    definition = {
        "hashed": field("card").hashed(9),
        "cross": cross(field("card"), field("hour")).default("none"),
        "bucket": field("amount").bucket([1]).default(-1),
        "weekend": field("at").is_weekend(),
        "missing": indicator(field("amount").is_missing()),
        "texts": coalesce(field("card"), cross(field("card"), field("hour"))),
        "numbers": coalesce(field("hour"), field("amount")),
        "applied": apply(first_letter, field("card"), returns=str),
        "tagged": apply(per_unit, field("tags"), field("at"), returns=int),
        "log": field("hour").log1p(),
        "abs": field("hour").abs().clip(0, None),
        "half": field("hour").clip(0.5, None),
    }
    plan = compile_features(definition, Trip, grace_ms=0, max_events_per_key=9, task="binary")
    types = {name: found.__name__ for name, found in plan.feature_types(Trip).items()}
    assert types == {
        "hashed": "str", "cross": "str", "bucket": "int", "weekend": "bool", "missing": "bool",
        "texts": "str", "numbers": "float", "applied": "str", "tagged": "int", "log": "float",
        "abs": "int", "half": "float",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        (field("card").log(), 'field("card") is text'),
        (field("at").bucket([1]), 'field("at") is time'),
        (field("card").clip(0, 1), "is text"),
        (field("card").cyclic_sin(24), "is text"),
        (field("tags").hashed(10), 'field("tags") is other'),
        (cross(field("card"), field("at")), 'field("at") is time'),
        (coalesce(field("card"), field("amount")), "number or text"),
        (coalesce(field("at"), field("at")), "is no feature value"),
        (field("card").hashed(10).default(0), "default 0 is no text"),
        (indicator(field("card") > 3), "compares number with text"),
        (indicator(field("no") > 3), "has no field 'no'"),
        (apply(first_letter, field("no"), returns=str), "has no field 'no'"),
        (field("card").hour(), "has no hour"),
        (by("card").count("1h", where=apply(wrong, field("card"), returns=int) > 1), "not of the event"),
    ],
)  # fmt: skip
def test_types_are_checked_where_the_definition_is_loaded(expression: Expression, said: str) -> None:
    with pytest.raises(DefinitionError, match="feature 'x'") as refusal:
        compile_features({"x": expression}, Trip, grace_ms=0, max_events_per_key=9, task="binary")
    assert said in refusal.value.message
    assert refusal.value.hint


def test_a_function_takes_fields_of_any_type() -> None:
    expression = apply(per_unit, field("tags"), field("at"), returns=float)
    assert FieldTypes(Trip, "binary").check(expression, "x") is float


def test_conditions_are_asked_to_be_indicators() -> None:
    condition: Any = field("amount") > 3
    assert isinstance(condition, Condition)
    with pytest.raises(DefinitionError) as refusal:
        compile_features({"x": condition}, Trip, grace_ms=0, max_events_per_key=9, task="binary")
    assert "indicator" in refusal.value.hint


async def waits(value: object) -> object:
    return value


@pytest.mark.parametrize(
    "write",
    [
        lambda: field("a").clip(None, None),
        lambda: field("a").clip(2, 1),
        lambda: field("a").clip("a", None),
        lambda: field("a").bucket([]),
        lambda: field("a").bucket([1, 1]),
        lambda: field("a").bucket([0, math.nan]),
        lambda: field("a").bucket(["a", "b"]),
        lambda: field("a").bucket(range(1_001)),
        lambda: field("a").cyclic_sin(0),
        lambda: field("a").cyclic_cos(math.inf),
        lambda: field("a").hashed(1),
        lambda: field("a").hashed(2.0),
        lambda: field("a").hashed((1 << 24) + 1),
        lambda: field("t").hour(utc_offset="Europe/Berlin"),
        lambda: field("t").hour(utc_offset="+15:00"),
        lambda: field("t").hour(utc_offset=2),
        lambda: cross(field("a")),
        lambda: cross(field("a"), "b"),
        lambda: coalesce(field("a"), 0),
        lambda: coalesce(*[field("a")] * 17),
        lambda: coalesce(field("a"), label),
        lambda: indicator(field("a")),
        lambda: apply(lambda value: value, field("a"), returns=float),
        lambda: apply("abs", field("a"), returns=float),
        lambda: apply("abs".upper, field("a"), returns=str),
        lambda: apply(waits, field("a"), returns=float),
        lambda: apply(per_unit, field("a"), returns=float),
        lambda: apply(per_unit, field("a"), field("b"), returns=list),
        lambda: apply(per_unit, field("a"), field("b"), returns=float, version=0),
        lambda: apply(per_unit, field("a"), 3, returns=float),
        lambda: apply(per_unit, returns=float),
    ],
)
def test_nonsense_is_refused_where_it_is_written(write: Callable[[], object]) -> None:
    with pytest.raises(DefinitionError) as refusal:
        write()
    assert refusal.value.hint


def test_a_function_is_its_name_and_version() -> None:
    one, other = (apply(per_unit, AMOUNT, FEE, returns=float, version=v) for v in (1, 2))
    assert repr(one) == (
        f'apply({__name__}:per_unit, field("amount"), field("fee"), returns=float, version=1)'
    )
    assert one != other
    assert one == apply(per_unit, AMOUNT, FEE, returns=float)


class Sale(msgspec.Struct):
    event_id: str
    event_time: int
    card: str
    amount: float
    fee: float | None = None


def sales(version: int) -> Pipeline:
    encode = compose.SelectType(str) | preprocessing.OneHotEncoder()
    return Pipeline(
        name="sales",
        events=Topic("sales.events", Sale, key="card"),
        labels=Labels("sales.labels", wait="1h"),
        features={
            "card": field("card").hashed(64),
            "spent": by("card").sum("amount", "1h").log1p(),
            "share": apply(per_unit, field("amount"), field("fee"), returns=float, version=version),
        },
        models={"lr": (encode + compose.SelectType(float)) | linear_model.LogisticRegression()},
    )


def test_a_function_that_raises_costs_one_feature_and_no_answer(tmp_path: Path) -> None:
    scorer = scorer_of(sales(1))
    records = [
        Record(
            "sales.events", 0, n, n, b"a",
            b'{"event_id": "e%d", "event_time": %d, "card": "a", "amount": 1.0, "fee": %s}' % (n, n, fee),
        )
        for n, fee in enumerate([b"2.0", b"0.0", b"null"])
    ]  # fmt: skip
    out = play(scorer, runs_of(scorer, records, []))
    rows = [decode_prediction(one.value or b"").features for one in out if one.target == "predictions"]
    assert [row.get("share") for row in rows] == [0.5, None, None]
    assert [row["card"] for row in rows] == [hashed("a", 64)] * 3
    assert [row["spent"] for row in rows] == [math.log1p(n) for n in (1, 2, 3)]
    assert scorer.counts[FUNCTION_FAILURES, f"{__name__}:per_unit"] == 1
    events, labels = tmp_path / "events.jsonl", tmp_path / "labels.jsonl"
    events.write_bytes(b"\n".join(record.value or b"" for record in records))
    labels.write_bytes(b'{"event_id": "e0", "label": true, "label_time": 5}\n')
    assert backtest(sales(1), events, labels)["function_failures"] == {f"{__name__}:per_unit": 1}


def test_another_version_of_a_function_is_another_feature() -> None:
    assert sales(1).features_version == sales(1).features_version != sales(2).features_version
