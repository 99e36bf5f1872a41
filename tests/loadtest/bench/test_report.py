"""The verdict of a load test: who could not keep up, and never the sender where the worker is behind."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loadtest.bench.report import BEHIND_EVENTS_MIN, SENDER_LATE_MS, Measured, judge

RUNS = st.builds(
    Measured,
    rate=st.floats(1, 1e5),
    offered=st.floats(1, 1e5),
    answered=st.floats(0, 1e5),
    behind=st.integers(0, 10**6),
    lost=st.integers(0, 10),
    p99_ms=st.none() | st.floats(0, 1e5),
    sender_p99_ms=st.none() | st.floats(0, 1e5),
    unlearned=st.integers(0, 10),
    hold_s=st.floats(0, 100),
)


@given(RUNS)
def test_a_late_sender_is_blamed_only_where_the_worker_kept_up(run: Measured) -> None:
    verdict = judge(run)
    kept_up = judge(run._replace(sender_p99_ms=0.0)).sustained
    late = run.sender_p99_ms is not None and run.sender_p99_ms > SENDER_LATE_MS
    assert verdict.sustained == (kept_up and not late)
    assert verdict.limit == ("" if verdict.sustained else "sender" if kept_up else "worker")
    assert verdict.text.startswith("sustained") == verdict.sustained


@given(RUNS)
def test_a_worker_keeps_up_exactly_while_nothing_grows_or_is_missing(run: Measured) -> None:
    soon = max(BEHIND_EVENTS_MIN, run.rate * (1.0 + run.hold_s))
    kept_up = not run.lost and not run.unlearned and run.behind <= soon
    assert judge(run._replace(sender_p99_ms=None)).sustained == kept_up


def test_the_saturated_run_that_once_blamed_the_sender() -> None:
    # 200/s offered, the sender 0.7 s late at its p99, the worker 14 s behind.
    run = Measured(200, 199.0, 119.0, behind=2_800, lost=0, p99_ms=14_000, sender_p99_ms=700)
    verdict = judge(run)
    assert (verdict.sustained, verdict.limit) == (False, "worker")
    assert verdict.text == (
        "NOT sustained, the worker cannot keep up: "
        "offered 199.0/s, answered 119.0/s, 2,800 events behind at the end, p99 14,000 ms"
    )
