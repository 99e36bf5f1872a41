"""Before anything is proven a blend or the leader serves; that is told, and is no swap."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from fields import Source
from hypothesis import given
from hypothesis import strategies as st
from river import base

from engine.machines.learner import Learner
from operators.race.blend import Blend
from operators.race.evidence import Promotion
from operators.race.field import RaceField
from operators.race.opening import LOOK_EVERY, Opening
from topics import headers
from topics.codec import encode
from topics.messages import Claim, Command, Decision, Example, Quarantine, Record

NAMES = ("a", "b", "c")
loss = st.one_of(st.none(), st.floats(0, 1))


@given(st.lists(st.fixed_dictionaries(dict.fromkeys(NAMES, loss)), max_size=200))
def test_the_leader_has_the_lowest_sum_over_rows_with_all_opinions(
    rows: list[dict[str, float | None]],
) -> None:
    opening, champion = Opening("leader"), "a"
    sums = dict.fromkeys(NAMES, 0.0)
    for number, losses in enumerate(rows, 1):
        leads = opening.add(champion, losses)
        if None not in losses.values():
            sums = {name: sums[name] + (losses[name] or 0.0) for name in NAMES}
        if number % LOOK_EVERY == 0 and sums[champion] > min(sums.values()):
            assert leads == min(sums, key=sums.__getitem__)
            champion = leads
        else:
            assert leads == (champion if number == 1 else None)


def test_who_is_new_begins_behind_all_and_who_left_is_out() -> None:
    opening = Opening("leader")
    for _ in range(10):
        opening.add("a", {"a": 0.5, "b": 0.25})
    opening.add("a", {"b": 0.25, "new": 0.0})
    assert opening.sums == {"b": 2.75, "new": 5.0}


def test_a_restored_opening_goes_on() -> None:
    rng = random.Random(1)
    rows = [{name: rng.random() for name in NAMES} for _ in range(100)]
    opening, other = Opening("leader"), Opening("leader")
    for row in rows[:50]:
        opening.add("a", row)
    other.restore(opening.snapshot())
    assert other.delta() == {}
    assert [opening.add("a", row) for row in rows[50:]] == [other.add("a", row) for row in rows[50:]]
    assert other.delta() == opening.snapshot()


# -- in the race ----------------------------------------------------------------------------------------


class Nothing(base.Classifier):
    """Learns nothing; what the models say stands in the examples."""

    def learn_one(self, x: dict[str, Any], y: bool) -> None: ...

    def predict_one(self, x: dict[str, Any]) -> bool:  # noqa: ARG002
        return False


def learner(opening: str, **promotion: Any) -> Learner:
    models: dict[str, Any] = {name: Nothing() for name in NAMES}
    if opening == "blend":
        models["blend"] = Blend()
    made = Learner(
        pipeline="p",
        task="binary",
        source=Source(),
        field=RaceField.of(models, opening=opening, promotion=Promotion(**promotion)),
    )
    made.fold([Record("e", 0, 0, 0, None, encode(Claim(0, 1)), headers.CLAIM)])
    return made


def examples(
    learns: Learner, count: int, says: Callable[[int, str], float], first: int = 0, at: int | None = None
) -> list[Record]:
    """Return records of examples whose label is true and whose racers say what `says` tells.

    The first has the number `first`, and lies at the offset `at`.
    """
    ahead = 1 if at is None else at - first
    records = []
    for n in range(first, first + count):
        scores = {name: says(n, name) for name in learns.roster.racers if name != "blend"}
        if "blend" in learns.roster.racers:
            scores["blend"] = sum(scores.values()) / len(scores)
        champion = learns.roster.champion
        served = scores[champion]
        example = Example(
            f"e{n}", "k", n, n, True, {"x": 1.0}, scores, served, "champion", champion, 0, n, n, 1, n
        )  # fmt: skip
        records.append(Record("e", 0, n + ahead, 0, b"k", encode(example), headers.EXAMPLE))
    return records


def better_c(n: int, name: str) -> float:
    """`c` is right, and more so than the others."""
    return {"a": 0.5, "b": 0.6, "c": 0.9}[name] + 0.05 * (n % 3 - 1)


def test_a_blend_serves_from_the_first_event_and_says_so_once() -> None:
    learns = learner("blend")
    assert learns.roster.champion == "blend"
    decisions = learns.fold(examples(learns, 200, lambda n, _: 0.5 + 0.1 * (n % 2)))
    assert [(d.type, d.model_name, d.reason, d.offset, d.from_model) for d in decisions] == [
        ("opening.started", "blend", "blend", 1, None)
    ]


def test_what_is_proven_ends_the_opening_of_a_blend() -> None:
    learns = learner("blend", false_swap_every=50, min_examples=64, cooldown=1_000_000, evidence_block=8)
    decisions = learns.fold(examples(learns, 600, better_c))
    assert [(d.type, d.model_name) for d in decisions] == [
        ("opening.started", "blend"),
        ("model.promoted", "c"),
    ]
    assert learns.opening is not None
    assert learns.opening.kind is None
    assert learns.roster.previous == ("blend",)


def test_the_leader_changes_without_a_swap_and_waits_for_no_cooldown() -> None:
    learns = learner("leader")
    decisions = learns.fold(examples(learns, LOOK_EVERY, better_c))
    assert [(d.type, d.model_name, d.from_model, d.offset) for d in decisions] == [
        ("opening.started", "a", None, 1),
        ("opening.started", "c", "a", LOOK_EVERY),
    ]
    assert decisions[1].evidence["c"] < decisions[1].evidence["a"]
    assert learns.arena.states == {"a": "challenger", "b": "challenger", "c": "champion"}

    def turned(_: int, name: str) -> float:
        return {"a": 0.5, "b": 1.0, "c": 0.0}[name]

    decisions = learns.fold(examples(learns, 2 * LOOK_EVERY, turned, LOOK_EVERY))
    assert {d.type for d in decisions} == {"opening.started"}
    assert decisions[-1].model_name == "b"


@pytest.mark.parametrize("opening", ["blend", "leader"])
@pytest.mark.parametrize("word", ["promote", "pin"])
def test_a_person_ends_the_opening(opening: str, word: str) -> None:
    learns = learner(opening)
    learns.fold(examples(learns, 1, better_c))
    name = "b" if word == "promote" else learns.roster.champion
    command = Command("c1", word, 1, model_name=name, actor="kim")  # type: ignore[arg-type]
    learns.fold([Record("e", 0, 2, 0, None, encode(command), headers.COMMAND)])
    assert learns.opening is not None
    assert learns.opening.kind is None
    assert learns.fold(examples(learns, 3 * LOOK_EVERY, better_c, 1, at=3)) == []
    assert learns.roster.champion == name


def test_a_leader_that_fails_is_succeeded_and_the_opening_goes_on() -> None:
    learns = learner("leader")
    learns.fold(examples(learns, LOOK_EVERY, better_c))
    report = Quarantine("e", "c", 3, "sick", 0, 0, 1, LOOK_EVERY)
    decisions = learns.fold([Record("e", 0, LOOK_EVERY + 1, 0, None, encode(report), headers.QUARANTINE)])
    assert [d.type for d in decisions] == ["model.quarantined", "model.promoted"]
    assert learns.opening is not None
    assert learns.opening.kind == "leader"


@pytest.mark.parametrize("opening", ["blend", "leader"])
@pytest.mark.parametrize("size", [1, 7, 64])
def test_any_cutting_of_batches_opens_alike(opening: str, size: int) -> None:
    rng = random.Random(3)
    says = {(n, name): rng.random() for n in range(300) for name in NAMES}
    settings = {"false_swap_every": 60, "min_examples": 64, "cooldown": 50, "evidence_block": 8}
    whole = learner(opening, **settings)
    records = examples(whole, 300, lambda n, name: says[n, name])
    expected = whole.fold(records)
    assert any(d.type == "opening.started" for d in expected)
    parts = learner(opening, **settings)
    found: list[Decision] = []
    for start in range(0, 300, size):
        found += parts.fold(records[start : start + size])
    assert found == expected
    assert parts.snapshot().keys() == whole.snapshot().keys()
    assert parts.snapshot() == whole.snapshot()
