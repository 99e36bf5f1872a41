"""Whose labels are learned: the cap against a recount, the quarantine against simulated sources."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.trust.sources import SourceRules, Sources, Trust
from topics.errors import DefinitionError
from topics.messages import Example


def label(source: str, truth: object = True, score: float | None = 0.9) -> Example:
    return Example("e", "k", 0, 9, truth, {}, {}, score, "champion", "m", 0, 0, 0, 1, 0, source=source)


def sources_of(task="binary", objective="brier", **rules) -> Sources:
    return Sources(SourceRules(**rules), task, objective, 0.5)


@given(st.lists(st.sampled_from(["", "a", "b", "c"]), max_size=80), st.integers(1, 5), st.integers(5, 20))
def test_the_cap_equals_a_recount_of_the_window(names, most, window) -> None:
    sources = sources_of(per_source_max=most, window=window)
    found = [sources.admit(label(name))[0] for name in names]
    said = [name for name in names if name]
    recounted: list[str] = []
    for number, name in enumerate(said):
        span = range(max(0, number - window + 1), number)
        learned = sum(said[at] == name and not recounted[at] for at in span)
        recounted.append("over_source_cap" if learned >= most else "")
    assert [one for one, name in zip(found, names, strict=True) if name] == recounted
    assert not any(one for one, name in zip(found, names, strict=True) if not name)


def stream(seed: int, rows: int, hostile: dict[str, range], honest: int = 40, base: float = 0.3):
    """Labels of honest sources that differ a little, and of hostile ones that turn theirs while it lasts."""
    chance = random.Random(seed)
    for row in range(rows):
        attacking = [name for name, when in hostile.items() if row in when]
        loud = attacking and chance.random() < 0.5
        name = chance.choice(attacking) if loud else f"s{chance.randrange(honest)}"
        harder = 0.1 * (int(name[1:]) % 3) if name[0] == "s" else 0.0
        score = 0.85 - harder if chance.random() < base else 0.15 + harder
        truth = chance.random() < score
        yield label(name, truth != (name in attacking), score)


def found_in(sources: Sources, labels) -> list:
    return [
        (row, one) for row, example in enumerate(labels) if (one := sources.admit(example)[1]) is not None
    ]


def test_a_source_that_turns_its_labels_is_found_and_no_other() -> None:
    hostile = {f"bad{n}": range(4_000, 6_000) for n in range(5)}
    sources = sources_of(per_source_max=5, window=500, trust=Trust())
    found = found_in(sources, stream(1, 10_000, hostile))
    assert {one.source for _, one in found} == set(hostile)
    assert all(4_000 <= row < 4_800 for row, _ in found)
    assert all(one.mean > one.others + 0.2 and one.evidence >= one.threshold for _, one in found)
    assert set(sources.quarantined) == set(hostile)


def test_a_source_that_was_honest_for_long_is_found_as_fast() -> None:
    took = []
    for start in (500, 6_000):
        labels = stream(2, start + 3_000, {"s7": range(start, 9_999)})
        took.append(found_in(sources_of(trust=Trust()), labels)[0][0] - start)
    assert abs(took[0] - took[1]) < 150


def test_a_source_that_says_yes_to_all_is_found_by_its_rate() -> None:
    chance = random.Random(3)
    sources = sources_of(trust=Trust(loss_margin=1.0))
    names = [f"s{chance.randrange(30)}" for _ in range(6_000)]
    labels = [label(name, name == "s4" or chance.random() < 0.2, 0.2) for name in names]
    found = found_in(sources, labels)
    assert [(one.source, one.test) for _, one in found] == [("s4", "rate above")]


def test_honest_sources_are_quarantined_no_oftener_than_promised() -> None:
    """200 runs of 1,000 labels at a promise of 20,000: ten in the mean at most, so twenty is far out."""
    false = 0
    for seed in range(200):
        sources = sources_of(trust=Trust(false_quarantine_every=20_000))
        false += bool(found_in(sources, stream(seed, 1_000, {}, honest=10)))
    assert false <= 20


def test_a_released_source_is_trusted_as_a_new_one() -> None:
    sources = sources_of(trust=Trust())
    found_in(sources, stream(1, 6_000, {"bad": range(2_000, 6_000)}))
    assert sources.quarantined == ["bad"]
    assert sources.admit(label("bad"))[0] == "quarantined_source"
    assert sources.release("bad")
    assert not sources.release("bad")
    assert sources.admit(label("bad"))[0] == ""


def test_a_finding_pauses_where_too_much_is_in_quarantine() -> None:
    hostile = {"bad": range(2_000, 4_000)}
    for above, pauses in ((0.02, True), (0.5, False)):
        sources = sources_of(trust=Trust(pause_above=above))
        [(_, one)] = found_in(sources, stream(1, 4_000, hostile))
        assert (one.pauses, sources.pauses) == (pauses, True)


def test_no_more_sources_are_kept_than_there_is_room_for() -> None:
    counts: Counter[tuple[str, str]] = Counter()
    sources = Sources(SourceRules(None, 500, Trust(sources_max=3)), "binary", "brier", 0.5, counts)
    for n in range(10):
        sources.admit(label(f"s{n}"))
    assert counts["sources", "evicted"] == 7
    for name in ("a", "b", "c"):
        sources.admit(label(name))
        sources._sources[name].quarantined = True
    assert sources.admit(label("d"))[0] == ""
    assert counts["sources", "no_room"] == 1
    assert sources.quarantined == ["a", "b", "c"]


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 10_000),
    st.lists(st.integers(1, 899), max_size=4),
    st.sampled_from(["binary", "regression"]),
)
def test_a_restart_anywhere_changes_nothing(seed, cuts, task) -> None:
    rules = {"per_source_max": 20, "window": 100, "trust": Trust(false_quarantine_every=100)}
    labels = list(stream(seed, 900, {"bad": range(300, 900)}))
    if task == "regression":
        truths = [float(n % 7) + 9 * (one.source == "bad") for n, one in enumerate(labels)]
        labels = [label(one.source, truth, 3.0) for one, truth in zip(labels, truths, strict=True)]
    whole = sources_of(task, **rules)
    expected = [whole.admit(one) for one in labels]
    found, before = [], {}
    for start, end in pairwise([0, *sorted(set(cuts)), 900]):
        part = sources_of(task, **rules)
        part.restore(before)
        found += [part.admit(one) for one in labels[start:end]]
        before = part.snapshot()
    assert found == expected
    assert before == whole.snapshot()


def test_other_settings_keep_the_quarantine_and_count_anew() -> None:
    sources = sources_of(trust=Trust())
    found_in(sources, stream(1, 6_000, {"bad": range(2_000, 6_000)}))
    sources.follow(SourceRules(None, 100, Trust(loss_margin=0.3)), "brier", 0.5)
    assert sources.quarantined == ["bad"]
    sources.follow(None, "brier", 0.5)
    assert sources.quarantined == []
    assert sources.admit(label("bad")) == ("", None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"false_quarantine_every": 0}, {"sources_max": 0}, {"loss_margin": 0.0}, {"rate_margin": 1.5},
        {"pause_above": 1.0}, {"loss_margin": float("nan")},
    ],
)  # fmt: skip
def test_trust_that_cannot_be_is_refused(wrong) -> None:
    with pytest.raises(DefinitionError):
        Trust(**wrong)


def test_settings_that_stay_leave_the_scale_of_a_regression() -> None:
    rules = SourceRules(trust=Trust())
    sources = Sources(rules, "regression", "brier", 0.5)
    for number in range(50):
        sources.admit(label("a", float(number), 1.0))
    before = sources.snapshot()
    sources.follow(rules, "brier", 0.5)
    assert sources.snapshot() == before
    sources.follow(SourceRules(trust=Trust(loss_margin=0.4)), "brier", 0.5)
    assert sources.snapshot() != before
