"""What two definitions keep in the same way goes on as if the new one had been there from the start."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import linear_model
from test_spill import KeptInDict

from engine import Labels, Pipeline, Topic
from engine.machines.admission import Intake
from engine.worker.claim import RevokedError
from engine.worker.owned_partitions import OwnedPartitions, carry_over, difference
from engine.worker.partition import Inputs, Partition
from operators import by, cross, decay, field, indicator, label, last_n, session, tiled, tumbling
from operators.join.join import Join
from operators.join.pending import WaitingAnswer
from operators.language.expressions import Expression
from operators.language.fields import windows_of
from operators.language.plan import FeaturePlan, compile_features
from operators.state import named, under
from operators.windows.features import CarriedOver, Features, JoinedLabel
from topics.errors import CheckpointError
from topics.messages import Event, Label, Prediction, Record

SECOND = 1_000
GRACE_MS = 3 * SECOND


class Payment(msgspec.Struct):
    card: str
    shop: str
    amount: float | None
    fee: int = 0


large = field("amount") > 4
POOL: dict[str, Expression] = {
    "amount": field("amount"),
    "n_10": by("card").count("10s"),
    "sum_10": by("card").sum("amount", "10s"),
    "max_5": by("card").max("fee", "5s"),
    "gap": by("card").since_last("8s"),
    "shops": by("card").distinct("shop", "10s"),
    "median": by("card").median("amount", "10s"),
    "last": by("shop").last("card", last_n(2)),
    "large": by("card").count("10s", where=large),
    "before": by("card").mean("amount", "5s", shift="4s"),
    "tiled": by("card").mean("amount", tiled("8s", step="2s")),
    "tiled_max": by("card").max("fee", tiled("8s", step="2s")),
    "tiled_long": by("card").arg_max("fee", "amount", tiled("12s", step="2s")),
    "tumbled": by("shop").sum("amount", tumbling("4s")),
    "tumbled_first": by("shop").first("fee", tumbling("4s")),
    "session": by("card").sum("amount", session("3s")),
    "session_q": by("card").quantile("amount", 0.9, session("3s")),
    "session_long": by("card").count(session("6s")),
    "tiled_fine": by("card").sum("amount", tiled("8s", step="1s")),
    "before_more": by("card").mean("amount", "5s", shift="2s"),
    "faded": by("card").sum("amount", decay("5s")),
    "faded_mean": by("card").mean("amount", decay("5s")),
    "faded_n": by("card").count(decay("2s")),
    "root": by("card").sum(field("amount").sqrt(), "10s"),
    "root_tiled": by("card").mean(field("amount").sqrt(), tiled("8s", step="2s")),
    "root_faded": by("card").mean(field("amount").sqrt(), decay("5s")),
    "pairs": by("card").distinct(cross(field("shop"), field("fee")), "10s"),
    "best": by("card").arg_max(cross(field("shop"), field("fee")), -field("amount"), session("3s")),
    "all": by().count("10s"),
    "labels": by("card").mean(label, "10s"),
    "labels_all": by().count(label, "6s"),
    "labels_n": by("shop").count(label, "6s"),
    "labels_true": by("card").mean(indicator(label == 1), "10s"),
    "labels_true_tiled": by("card").mean(indicator(label == 1), tiled("8s", step="2s")),
    "labels_tiled": by("card").sum(label, tiled("8s", step="2s")),
    "ratio": by("card").sum("amount", "10s") / by().sum("amount", "10s").default(1.0),
}


def plan_of(names: Any) -> FeaturePlan:
    features = {name: POOL[name] for name in names}
    return compile_features(features, Payment, grace_ms=GRACE_MS, max_events_per_key=50, task="binary")


def carried(entries: dict[str, bytes], after: FeaturePlan) -> CarriedOver:
    return Features(after).carried_over(entries)


def changed(entries: dict[str, bytes], after: FeaturePlan) -> tuple[Features, CarriedOver]:
    """Return the features of a plan that go on with the state of another one."""
    found = carried(entries, after)
    features = Features(after)
    features.restore(found.entries)
    return features, found


def group_of(plan: FeaturePlan, name: str) -> str:
    (window, *_) = windows_of(POOL[name])
    return plan.group_of[window].name


# -- the oracle: the new definition from the start -----------------------------------------------------


@st.composite
def streams(draw: st.DrawFn) -> list[Event]:
    events, time, time_max = [], 100 * SECOND, 0
    for number in range(draw(st.integers(4, 40))):
        time += draw(st.sampled_from([0, 200, 500, 1_500, 4_000]))
        at = time - draw(st.sampled_from([0, 0, 0, 400, 2_500, 9_000]))
        value = Payment(
            draw(st.sampled_from("ab")),
            draw(st.sampled_from("xyz")),
            draw(st.sampled_from([None, 0.1, 2.5, 7.0, 1e6])),
            draw(st.integers(0, 5)),
        )
        time_max = max(time_max, at)
        watermark = time_max - GRACE_MS
        events.append(Event(str(number), at, value.card, value, number, watermark, late=at < watermark))
    return events


def run(features: Features, events: list[Event]) -> list[dict[str, Any]]:
    """Every third event gets a label half a second after its time."""
    rows = []
    for event in events:
        rows += features.step_events([event])
        if event.offset % 3 == 0:
            keys = features.label_keys(event)
            features.step_labels([JoinedLabel(keys, event.event_time + 500, float(event.offset % 2))])
    return rows


names = st.lists(st.sampled_from(sorted(POOL)), min_size=1, max_size=8, unique=True)
some = st.lists(st.sampled_from(sorted(POOL)), max_size=5, unique=True)


@settings(max_examples=80, deadline=None)
@given(names, some, some, streams(), st.data())
def test_windows_of_groups_that_both_definitions_have_go_on(
    both: list[str], gone: list[str], added: list[str], events: list[Event], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(len(events) // 2, len(events)))
    before = data.draw(st.permutations(sorted({*both, *gone})))
    after = data.draw(st.permutations(sorted({*both, *added})))
    old, new = plan_of(before), plan_of(after)
    first = Features(old)
    run(first, events[:cut])
    features, found = changed(first.snapshot(), new)
    always = Features(new)
    run(always, events[:cut])
    whole = set(after) - set(found.filling)
    rows, wanted = run(features, events[cut:]), run(always, events[cut:])
    for event, one, other in zip(events[cut:], rows, wanted, strict=True):
        if not event.late:  # a late one sees what is kept, and longer windows keep more
            assert {name: one.get(name) for name in whole} == {name: other.get(name) for name in whole}
    kept = {group.name for group in old.groups}
    unchanged = {name for name in both if all(new.group_of[w].name in kept for w in windows_of(POOL[name]))}
    assert unchanged <= whole


@settings(max_examples=40, deadline=None)
@given(names, streams())
def test_the_same_definition_in_another_order_loses_nothing(features: list[str], events: list[Event]) -> None:
    old, new = plan_of(features), plan_of(reversed(features))
    first = Features(old)
    run(first, events)
    there = carried(first.snapshot(), new)
    assert there.filling == ()
    assert (there.keys, there.keys_dropped) == (len(first.snapshot()) - 1, 0)
    assert carried(there.entries, old).entries == first.snapshot()


# -- what begins empty, what goes ------------------------------------------------------------------


def filled(features: list[str]) -> tuple[FeaturePlan, dict[str, bytes]]:
    plan = plan_of(features)
    made = Features(plan)
    for second in range(5):
        event = Event(str(second), second * SECOND, "a", Payment("a", "x", 2.0), second, second * SECOND)
        made.step_events([event])
    return plan, made.snapshot()


def next_row(features: Features) -> dict[str, Any]:
    (row,) = features.step_events([Event("e", 5 * SECOND, "a", Payment("a", "y", 3.0), 5, 5 * SECOND)])
    return row


@pytest.mark.parametrize(
    ("kept", "added"),
    [
        ("n_10", "sum_10"),
        ("tiled", "tiled_max"),
        ("tiled", "tiled_long"),
        ("session", "session_q"),
        ("faded_n", "faded_mean"),
        ("tumbled", "tumbled_first"),
    ],
)
def test_a_group_that_keeps_something_else_begins_empty(kept: str, added: str) -> None:
    _, entries = filled([kept])
    features, found = changed(entries, plan_of([kept, added]))
    assert features.key_count == 0
    assert found.filling == (kept, added)
    assert (found.keys, found.keys_dropped) == (0, 1)


def test_another_window_over_what_a_log_keeps_has_what_was_kept() -> None:
    _, entries = filled(["n_10", "sum_10"])
    features, found = changed(entries, plan_of(["sum_10", "n_10", "gap", "before"]))
    assert next_row(features) == {"n_10": 6, "sum_10": 13.0, "gap": 1_000, "before": 2.0}
    assert found.filling == ()


def test_what_is_gone_is_dropped_and_counted() -> None:
    old, entries = filled(["n_10", "last", "all"])
    found = carried(entries, plan_of(["all"]))
    assert (found.keys, found.keys_dropped) == (1, 2)
    assert sorted(found.entries) == sorted([f"{group_of(old, 'all')}/", "meta"])
    delta = difference(entries, found.entries)
    assert {name for name, data in delta.items() if data is None} == {
        f"{group_of(old, 'n_10')}/a",
        f"{group_of(old, 'last')}/x",
    }


def plan_with(of_type: type[msgspec.Struct] = Payment, **features: Expression) -> FeaturePlan:
    return compile_features(features, of_type, grace_ms=0, max_events_per_key=9, task="binary")


def test_a_longer_window_is_filling_a_shorter_one_is_not() -> None:
    hour, two = (plan_with(n=by("card").count(text)) for text in ("1h", "2h"))
    assert carried(Features(hour).snapshot(), two).filling == ("n",)
    assert carried(Features(two).snapshot(), hour).filling == ()


class WholePayment(msgspec.Struct):
    card: str
    amount: int


class OtherPayment(msgspec.Struct):
    card: str
    amount: float | None = 1.0
    fee: int = 0


@pytest.mark.parametrize("other", [WholePayment, OtherPayment])
def test_a_field_of_another_type_or_default_begins_a_group_anew(other: type[msgspec.Struct]) -> None:
    twice = by("card").sum(field("amount") * 2, "10s")
    entries = Features(plan_with(x=twice)).snapshot()
    assert carried(entries, plan_with(x=twice)).filling == ()
    assert carried(entries, plan_with(x=by("card").sum(field("amount") * 3, "10s"))).filling == ("x",)
    assert carried(entries, plan_with(other, x=twice)).filling == ("x",)


@pytest.mark.parametrize("entries", [{}, {"meta": b"\x92\x05\x90"}, {"meta": b"?"}])
def test_what_another_release_wrote_is_refused(entries: dict[str, bytes]) -> None:
    with pytest.raises(CheckpointError, match="cannot be read") as refusal:
        carried(entries, plan_of(["n_10"]))
    assert "release" in refusal.value.hint


# -- predictions that wait -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "keys"),
    [
        (["labels", "labels_n"], ["labels_n", "labels"], ("x", "a")),
        (["labels"], ["labels", "labels_n"], ("a", None)),
        (["labels", "labels_n"], ["labels_n"], ("x",)),
        (["labels"], ["labels_tiled"], ("a",)),
        (["labels"], ["n_10"], ()),
        (["labels"], ["labels_all", "labels"], ("", "a")),
    ],
)
def test_waiting_predictions_know_their_keys_where_they_can(
    before: list[str], after: list[str], keys: tuple[str | None, ...]
) -> None:
    old, new = plan_of(before), plan_of(after)
    join = Join(wait_ms=60_000, implicit=None)
    answer = Prediction("p:e", "e", 5, 6, "m", 1, 0, "champion", 0.5, True, "champion", {"x": 1}, 0, 1, 0)
    event = Event("e", 5, "a", Payment("a", "x", 1.0), 0, 5)
    join.open(WaitingAnswer.of(answer, "a", Features(old).label_keys(event), 7, {}))
    entries = named({"features": Features(old).snapshot(), "join": join.snapshot(), "rest": {"x": b"1"}})
    features = Features(new)
    found = carry_over(entries, features, KeptInDict(), (), 0)
    assert found["rest/x"] == b"1"
    join.restore(under("join", found))
    _, joined = join.label(Label("e", True, 600, 0), key=None, value=None)
    assert joined is not None
    assert (joined.waiting.keys, joined.waiting.prediction) == (keys, answer)
    features.restore(under("features", found))
    features.step_labels([JoinedLabel(joined.waiting.keys, joined.label_time, 1.0)])
    assert features.key_count == sum(key is not None for key in keys)


class Parked:
    """A partition as far as a rebalance sees it."""

    def __init__(self, *, is_ours: bool = True) -> None:
        self.is_ours = is_ours

    async def kept(self) -> bool:
        return self.is_ours


class Moving(OwnedPartitions):
    """Owned partitions whose takeovers are only counted."""

    def __init__(self, *, keeps: bool = True) -> None:
        self.owned, self._parked, self.kept, self.counts, self._keeps = {}, {}, [], Counter(), keeps

    async def _take_over(self, _: int, go_on: Any) -> Any:
        go_on()
        return Parked()


def go_on() -> None:
    pass


def test_what_was_saved_and_comes_back_is_kept_and_what_was_released_is_not() -> None:
    async def play() -> None:
        partitions = Moving()
        stays, lost, goes = Parked(), Parked(is_ours=False), Parked()
        partitions.owned = {0: stays, 2: lost, 3: goes}  # type: ignore[dict-item]
        partitions.park()
        assert partitions.owned == {}
        await partitions.take_over([0, 2, 4], go_on)
        assert partitions.owned[0] is stays
        assert partitions.kept == [0]
        assert not {lost, goes} & {*partitions.owned.values()}
        assert partitions.counts == {("takeovers", "kept"): 1, ("takeovers", "claimed"): 2}
        partitions.park()
        await partitions.take_over([], go_on)  # a standby
        await partitions.take_over([0], go_on)
        assert partitions.kept == []
        partitions.park()
        steps = iter([True, True, True, True, False])

        def until_revoked() -> None:
            if not next(steps):
                raise RevokedError

        with pytest.raises(RevokedError):
            await partitions.take_over([5, 6, 7], until_revoked)
        partitions.park()
        await partitions.take_over([5, 6, 7], go_on)
        assert partitions.kept == [5, 6], "what was restored when the group moved is restored again"
        partitions.park()
        partitions.release()  # what was not saved must not come back
        await partitions.take_over([0], go_on)
        assert partitions.kept == []
        travelling = Moving(keeps=False)  # with state that is in no scorer
        await travelling.take_over([0], go_on)
        travelling.park()
        await travelling.take_over([0], go_on)
        assert travelling.kept == []

    asyncio.run(play())


@pytest.mark.parametrize("read", [{}, {"e"}], ids=str)
def test_a_kept_partition_reads_on_where_its_scorer_stands(read: set[str]) -> None:
    """What was polled and not taken is read again; a topic of which nothing was taken begins as before."""
    pipeline = Pipeline(
        name="kept",
        events=Topic("e", Payment, key="card", id="card", time="fee"),
        labels=Labels("l", wait="1h"),
        features={"amount": field("amount").default(0.0)},
        models={"m": linear_model.LogisticRegression()},
    )
    intake = Intake(pipeline.event_decoder(), pipeline.label_decoder())
    intake.offer_events([Record("e", 0, at, 0, b"c", b"{}") for at in range(3)])
    intake.offer_labels([Record("l", 0, 0, 0, b"c", b"{}")])
    assert len(intake) == 4
    kept = Partition.__new__(Partition)
    kept._inputs = Inputs(pipeline, idle_after_ms=1)
    kept._rekeying, kept._takeover, kept._store = None, SimpleNamespace(logs=()), None  # type: ignore[assignment]
    kept._saved, kept._written_before, kept._restored = None, 0, False
    kept._read = dict.fromkeys(read)  # type: ignore[assignment]
    kept._intake, kept._unread, kept._paused = intake, {"e": True}, {("e", 0)}
    kept.number = 0
    kept.scorer = SimpleNamespace(position=SimpleNamespace(events=7, labels=0))  # type: ignore[assignment]

    async def keeps(*_: Any, **__: Any) -> bool:
        return True

    kept._claims = SimpleNamespace(keeps=keeps)  # type: ignore[assignment]
    assert asyncio.run(kept.kept())
    assert len(intake) == 0
    assert (kept._unread, kept._paused) == ({None: False}, set())
    assert kept.starts() == {("e", 0): 7 if read else None, ("l", 0): None}
