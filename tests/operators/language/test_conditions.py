"""Conditions: three values, one text for one meaning, and no silent misuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators import by, field
from operators.language.conditions import Both, Condition, Either, Not
from operators.windows.evaluate import predicate
from topics.errors import DefinitionError

amount, kind = field("amount"), field("kind")
atoms = st.sampled_from(
    [
        amount > 1,
        amount <= field("limit") * 2,
        amount != -1.5,
        kind == 'say "x"',
        kind.equals(field("other")),
        amount.is_missing(),
        (amount - 1).is_missing(),
        kind.is_in("a", "b", "c"),
        field("flag").equals(True),
        field("time").hour() >= 22,
        amount.default(0) == 0,
    ]
)
conditions = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.builds(lambda a, b: a & b, inner, inner),
        st.builds(lambda a, b: a | b, inner, inner),
        st.builds(lambda a: ~a, inner),
    ),
    max_leaves=6,
)


@given(conditions)
def test_the_text_of_a_condition_is_the_condition(condition: Condition) -> None:
    assert eval(repr(condition), {"field": field}) == condition
    aggregate = by("card").count("1h", where=condition)
    assert eval(repr(aggregate), {"field": field, "by": by}) == aggregate
    assert hash(eval(repr(aggregate), {"field": field, "by": by})) == hash(aggregate)


MEANING: dict[str, Callable[[float | None, float | None], bool | None]] = {
    "==": lambda a, b: None if a is None or b is None else a == b,
    "!=": lambda a, b: None if a is None or b is None else a != b,
    "<": lambda a, b: None if a is None or b is None else a < b,
    "<=": lambda a, b: None if a is None or b is None else a <= b,
    ">": lambda a, b: None if a is None or b is None else a > b,
    ">=": lambda a, b: None if a is None or b is None else a >= b,
}


def test_a_comparison_with_a_missing_value_is_unknown() -> None:
    a, b = field("a"), field("b")
    made = {
        "==": a.equals(b),
        "<": a < b,
        "<=": a <= b,
        ">": a > b,
        ">=": a >= b,
    }
    for text, condition in made.items():
        for values in product([None, 1.0, 2.0], repeat=2):
            event = SimpleNamespace(a=values[0], b=values[1])
            assert predicate(condition)(event) is MEANING[text](*values)
    assert [predicate(a != 1)(SimpleNamespace(a=value)) for value in (None, 1, 2)] == [None, False, True]
    assert [predicate(a.is_missing())(SimpleNamespace(a=value)) for value in (None, 1)] == [True, False]


def test_conditions_are_joined_as_in_sql() -> None:
    """Kleene's tables, as `IS TRUE` of PostgreSQL reads them."""
    values = {True: field("t") == 1, False: field("t") == 2, None: field("n") == 1}
    event = SimpleNamespace(t=1, n=None)
    for one, other in product(values, repeat=2):
        both, either = Both(values[one], values[other]), Either(values[one], values[other])
        known = False if one is False or other is False else None if None in (one, other) else True
        assert predicate(both)(event) is known
        known = True if one is True or other is True else None if None in (one, other) else False
        assert predicate(either)(event) is known
    assert [predicate(Not(values[one]))(event) for one in (True, False, None)] == [False, True, None]


@pytest.mark.parametrize(
    "write",
    [
        lambda: (amount > 1) and (kind == "x"),
        lambda: (kind == "x") and (amount > 1),
        lambda: not (amount > 1),
        lambda: 1 < amount < 2,
        lambda: bool(kind != "x"),
        lambda: (amount > 1) & True,
        lambda: (amount > 1) | (amount == kind),
        lambda: amount == None,  # noqa: E711
        lambda: amount > math.inf,
        lambda: kind == ["x"],
        kind.is_in,
        lambda: by("card").count("1h", where=amount == kind),
        lambda: by("card").count("1h", where=True),
        lambda: by("card").count("1h", where="amount > 1"),
    ],
)
def test_misuse_is_refused_where_it_is_written(write: Callable[[], object]) -> None:
    with pytest.raises(DefinitionError) as refusal:
        write()
    assert refusal.value.hint


def test_a_field_of_bool_is_a_condition() -> None:
    assert (
        repr(by("c").count("1h", where=field("flag"))) == 'by("c").count("1h", where=field("flag") == True)'
    )
