"""Expressions are values with one text for one meaning; nonsense is refused where it is written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import operators
from operators import (
    by,
    coalesce,
    cross,
    decay,
    field,
    indicator,
    label,
    last_n,
    lookup,
    session,
    tiled,
    tumbling,
)
from operators.language.expressions import Expression
from topics.errors import DefinitionError

fields = st.builds(field, st.sampled_from(["amount", "time", 'odd "name"']))
spans = st.sampled_from(["250ms", "90s", "60m", "3h", "7d", 1, 60_000])
kinds = st.sampled_from(
    [tumbling("60m"), session(1), last_n(3), decay("1h"), tiled("90d", step="1d"), last_n(5, within="1s")]
)
keys = st.sampled_from([by(), by("card"), by("card", "merchant")])
aggregates = st.one_of(
    st.builds(lambda key, span: key.count(span, include_current=False), keys, spans),
    st.builds(lambda key, of, span: key.mean(of, span), keys, st.sampled_from(["amount", label]), spans),
    st.builds(lambda key, span: key.since_last(label, span), keys, spans),
    st.builds(
        lambda key, span: key.sum("amount", span, where=field("amount") > 1), keys, st.one_of(spans, kinds)
    ),
    st.builds(lambda key, span: key.quantile("amount", 0.25, span, shift="90s"), keys, spans),
    st.builds(lambda key, span: key.arg_min("kind", "amount", span), keys, spans),
    st.builds(
        lambda key, span: key.arg_max(cross(field("kind"), field("shop")), -field("fee"), span), keys, spans
    ),
    st.builds(lambda key, of, span: key.mean(of.log1p() * 2, span), keys, fields, spans),
    st.builds(lambda key, span: key.mode("kind", span, rank=3), keys, spans),
)
leaves = st.one_of(
    fields,
    aggregates,
    st.builds(field("time").hour),
    st.builds(field("time").is_weekend, utc_offset=st.sampled_from(["+00:00", "-05:30"])),
    st.builds(lookup, st.just("m:{merchant}"), st.just("risk"), st.sampled_from([None, 0.5, "none"])),
)
constants = st.one_of(st.integers(-5, 5), st.floats(-5, 5))
expressions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(lambda a, b: a + b, inner, st.one_of(inner, constants)),
        st.builds(lambda a, b: b - a, inner, st.one_of(inner, constants)),
        st.builds(lambda a, b: b * a, inner, constants),
        st.builds(lambda a, b: a / b, inner, inner),
        st.builds(lambda a, b: b / a, inner, constants),
        st.builds(lambda a: -a, inner),
        st.builds(
            lambda a, name: getattr(a, name)(), inner, st.sampled_from(["log", "log1p", "sqrt", "abs"])
        ),
        st.builds(lambda a, high: a.clip(None, high), inner, constants),
        st.builds(lambda a, bounds: a.bucket(sorted(bounds)), inner, st.sets(constants, min_size=1)),
        st.builds(lambda a, period: a.cyclic_sin(period), inner, st.sampled_from([24, 60.0, 0.5])),
        st.builds(lambda a: a.hashed(100), inner),
        st.builds(cross, inner, inner),
        st.builds(coalesce, inner, inner, inner),
        st.builds(lambda a, b: indicator((a > 1) | ~b.is_missing()), inner, inner),
        st.builds(lambda a, value: a.default(value), inner, st.sampled_from([0, -1.5, True, 'say "x"'])),
    ),
)


@given(expressions)
def test_the_text_of_an_expression_is_the_expression(expression: Expression) -> None:
    words = {word: getattr(operators, word) for word in operators.__all__}
    assert repr(eval(repr(expression), words)) == repr(expression)
    assert eval(repr(expression), words) == expression


def test_equal_windows_have_equal_texts() -> None:
    assert repr(by("card").count("60m")) == repr(by("card").count(3_600_000)) == 'by("card").count("1h")'
    assert by("card").count(label, "1h") != by("card").count("1h")
    assert by("card").mean(field("amount"), "1h") == by("card").mean("amount", "1h")
    assert by("card").mean(field("amount").describe("in EUR"), "1h") == by("card").mean("amount", "1h")
    assert by("card").mean(field("amount").log(), "60m") == by("card").mean(field("amount").log(), "1h")
    assert by("card").mean(field("amount") * 1, "1h") != by("card").mean(field("amount") * 1.0, "1h")


def test_equal_transforms_have_equal_texts() -> None:
    assert (
        repr(field("a").bucket((0.0, 1.5)))
        == repr(field("a").bucket([0, 1.5]))
        == 'field("a").bucket([0, 1.5])'
    )
    assert field("t").hour(utc_offset="-00:00") == field("t").hour()
    assert repr(field("t").hour().cyclic_sin(24.0)) == 'field("t").hour().cyclic_sin(24)'
    assert repr((-field("a")).log() + 1) == '(-field("a")).log() + 1'


def test_expressions_are_immutable() -> None:
    with pytest.raises(AttributeError):
        field("amount").name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    "write",
    [
        lambda: by("card").count("0s"),
        lambda: by("card").count(tumbling("0s")),
        lambda: by("card").count(session("soon")),
        lambda: by("card").count(last_n(0)),
        lambda: by("card").count(last_n(True)),
        lambda: by("card").count(last_n(10_001)),
        lambda: by("card").count(tiled("1h", step="7m")),
        lambda: by("card").count(tiled("1h", step="2h")),
        lambda: by("card").count(tiled("90d", step="1ms")),
        lambda: by("card").count(3.5),
        lambda: by("card").mean("amount", 3.5),
        lambda: by("card").rate(tumbling("1h")),
        lambda: by("card").since_last(last_n(3)),
        lambda: by("card").mode("kind", session("1h")),
        lambda: by("card").entropy("kind", tiled("1h", step="1m")),
        lambda: by("card").max("amount", decay("1h")),
        lambda: by("card").quantile("amount", 1.5, "1h"),
        lambda: by("card").quantile("amount", True, "1h"),
        lambda: by("card").mode("kind", "1h", rank=0),
        lambda: by("card").count("1h", shift="soon"),
        lambda: by("card").count(tumbling("1h"), shift="1h"),
        lambda: by("card").count("1h", shift="1h", include_current=False),
        lambda: by("card").count(label, session("1h")),
        lambda: by("card").arg_max(label, "amount", "1h"),
        lambda: by("card").arg_max("kind", label, "1h"),
        lambda: by("card").mean("amount", -1),
        lambda: by("card").mean("amount", "soon"),
        lambda: by("card").count(label),
        lambda: by("card").mean(field("a") > field("b"), "1h"),
        lambda: by("card").mean(label * 2, "1h"),
        lambda: by("card").mean(3.5, "1h"),
        lambda: by("card").count(field("a") / 2, "1h"),
        lambda: by("card").arg_max(label, field("a") / 2, "1h"),
        lambda: by("card", "card"),
        lambda: by(""),
        lambda: by(3),
        lambda: by(*"abcdefghi"),
        lambda: field("a") + "text",
        lambda: field("a") * float("nan"),
        lambda: field("a") - True,
        lambda: field("a").default(None),
        lambda: field("a").default(float("inf")),
        lambda: lookup("merchant", "risk"),
        lambda: lookup("merchant:{", "risk"),
        lambda: lookup("merchant:{id!r}", "risk"),
        lambda: lookup("merchant:{card.number}", "risk"),
        lambda: lookup("merchant:{id}", "risk", default=[1]),
    ],
)
def test_nonsense_is_refused_where_it_is_written(write: object) -> None:
    with pytest.raises(DefinitionError) as refusal:
        write()  # type: ignore[operator]
    assert refusal.value.hint
