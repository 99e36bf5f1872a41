"""A ring of good versions: what is kept, what a checkpoint writes, what comes back."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import linear_model

from operators.models.scoring import Racer, Roster
from operators.race import good_versions as good
from operators.race.arena import Moment
from operators.race.good_versions import GoodVersions

EVERY = 10


def good_versions(names="ab"):
    racers = [Racer(name, linear_model.LogisticRegression(), version=n) for n, name in enumerate(names, 1)]
    return GoodVersions(pickle.dumps, pickle.loads, Roster("binary", racers, names[0]))


def learn(racer, n):
    racer.model.learn_one({"x": float(n)}, n % 2 == 0)
    racer.updates += 1


act = st.one_of(
    st.tuples(st.just("learn"), st.sampled_from("ab")),
    st.tuples(st.just("stop"), st.integers(1, 60)),
    st.tuples(st.just("renew"), st.sampled_from("ab")),
    st.tuples(st.just("retire"), st.sampled_from("ab")),
    st.tuples(st.just("quarantine"), st.sampled_from("ab")),
    st.tuples(st.just("delta"), st.none()),
)


@settings(deadline=None)
@given(st.lists(act, max_size=60))
def test_the_ring_holds_the_last_states_at_the_multiples_and_writes_each_once(acts):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(good, "GOOD_EVERY", EVERY)
        found = good_versions()
        roster = found._roster
        expected, entries, written, version_next = {}, {}, set(), 3
        for n, (kind, what) in enumerate(acts):
            if kind == "learn" and roster.healthy(what):
                learn(roster.racers[what], n)
            elif kind == "stop":
                assert found.stop(Moment(n, n, what)) == []
                if what % EVERY == 0:
                    for racer in roster.racing():
                        kept = expected.setdefault(racer.name, [])
                        state = (f"{racer.version}@{racer.updates}", dict(racer.model.weights))
                        if not kept or kept[-1][0] != state[0]:
                            expected[racer.name] = [*kept, state][-good.GOOD_KEPT :]
            elif kind == "renew":
                if what in roster.racers:
                    roster.racers[what].version, version_next = version_next, version_next + 1
            elif kind == "quarantine":
                roster.quarantined.add(what)
            elif kind == "retire" and what in roster.racers:
                del roster.racers[what]
                found.forget(what)
                expected.pop(what, None)
            elif kind == "delta":
                for name, data in found.delta().items():
                    if data is None:
                        del entries[name]
                    else:
                        assert name == "good" or name not in written, "a model is written once"
                        written.add(name)
                        entries[name] = data
                assert entries == found.snapshot()
                found = GoodVersions(pickle.dumps, pickle.loads, roster)
                found.restore(entries)
                assert found.delta() == {}
        shown = {
            name: [(one.label, dict(found.model(name, one).weights)) for one in found.of(name)]
            for name in "ab"
            if found.of(name)
        }
        assert shown == {name: kept for name, kept in expected.items() if kept}
        for name, kept in shown.items():
            for label, _ in kept:
                assert found.find(label) == found.find(label, name)
                assert found.find(label)[0] == name
        assert found.find("99@1") is None


def test_large_models_are_kept_in_smaller_number_and_the_newest_always(monkeypatch):
    monkeypatch.setattr(good, "GOOD_BYTES_MAX", 2_500)
    found = GoodVersions(lambda _: b"x" * 1_000, len, Roster("binary", [Racer("a", None, version=1)], "a"))
    racer = found._roster.racers["a"]
    for n in range(1, 5):
        racer.updates = n
        found.stop(Moment(n, n, n * good.GOOD_EVERY))
    assert [one.label for one in found.of("a")] == ["1@3", "1@4"]
    monkeypatch.setattr(good, "GOOD_BYTES_MAX", 10)
    racer.updates = 9
    found.stop(Moment(9, 9, good.GOOD_EVERY))
    assert [one.label for one in found.of("a")] == ["1@9"]


def test_what_comes_back_shares_nothing_with_what_is_kept():
    found = good_versions("a")
    found.stop(Moment(0, 0, good.GOOD_EVERY))
    one = found.of("a")[0]
    first = found.model("a", one)
    first.learn_one({"x": 1.0}, True)
    assert found.model("a", one).weights == {}
    assert found.figures("a", one)["restored"] == "1@0"
