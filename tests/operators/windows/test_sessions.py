"""Sessions against their definition: every event that is chained to the one at the window's end.

events      0   10    25 26          60       gap 20
session     [--------------]         [-]      34 from 26 to 60: a new one
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from window_oracle import Payment, check, check_restored, features_of, histories

from operators import by, field, session
from operators.language.fields import Aggregate
from topics.messages import Event

card, every = by("card"), by()
sale = field("kind") == "sale"
WHERE = {repr(sale): lambda value: value.kind == "sale"}
KINDS = ("sum", "mean", "min", "max", "var", "std", "first", "last", "distinct", "median")
SESSIONS: dict[str, Aggregate] = {
    "count": card.count(session(40)),
    "before": card.count(session(40), include_current=False),
    "sales": every.count(session(15), where=sale),
    "largest": card.arg_max("shop", "amount", session(40)),
    "q": every.quantile("amount", 0.1, session(15)),
    **{f"{kind}_{gap}": getattr(card, kind)("amount", session(gap)) for kind in KINDS for gap in (15, 40)},
}


@settings(max_examples=60, deadline=None)
@given(history=histories())
def test_sessions_equal_their_definition(history: list[Event]) -> None:
    check(SESSIONS, history, WHERE)


@settings(max_examples=40, deadline=None)
@given(history=histories(), cut=st.integers(0, 50), event_max=st.sampled_from([1, 1000]))
def test_restored_sessions_continue_to_the_bit(history: list[Event], cut: int, event_max: int) -> None:
    check_restored(SESSIONS, history, cut, event_max)


def test_a_session_takes_the_same_memory_however_long_it_goes_on() -> None:
    features, sizes = features_of({"sd": card.std("amount", session("1h"))}), []
    for number in range(400):
        time = number * 60_000
        (row,) = features.step_events([Event("e", time, "a", Payment("a", number % 7.0), 0, time - 30)])
        sizes.append(sum(map(len, features.snapshot().values())))
    assert max(sizes) < 200
    assert 1.9 < row["sd"] < 2.1
    features.step_events([Event("e", 10**9, "b", Payment("b"), 0, 10**9)])
    assert (features.key_count, features.evicted_keys) == (1, 1)


def test_a_late_event_joins_the_session_that_it_belongs_to_or_is_alone() -> None:
    """The session goes from 100 to 140, gap 20; late events at 90, within the gap, and at 50."""
    features = features_of({"n": card.count(session(20))})
    features.step_events([Event("e", time, "a", Payment("a"), 0, time) for time in (100, 120, 140)])
    before = features.snapshot()
    rows = features.step_events([Event("l", time, "a", Payment("a"), 0, 140, late=True) for time in (90, 50)])
    assert rows == [{"n": 4}, {"n": 1}]
    assert features.snapshot() == before
