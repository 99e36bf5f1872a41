"""With `per=` each key's race is the race of a pipeline without it over that key's events alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from keyed_world import (
    COMMANDS,
    KEYED,
    KEYS,
    PLAIN,
    Row,
    definition,
    factory_of,
    inputs,
    log_of,
    of_race,
    played,
)
from msgspec.structs import replace
from river import evaluate, linear_model, metrics, preprocessing

from engine import Pipeline
from engine.machines.keyed.keyed_learner import RACES, KeyedLearner
from engine.offline.backtest import LocalRun
from engine.offline.keyed.keyed_backtest import KeyedRun
from engine.worker.assembly import build_keyed_learner
from operators import field
from operators.models.signing import MAGIC
from topics.codec import decode_prediction
from topics.messages import Decision, Outgoing


def told(decisions: Sequence[Decision]) -> list[Decision]:
    """Return decisions without what says where in the log they lie."""
    return [replace(one, decision_id="", offset=0, key="") for one in decisions]


def answers(out: Sequence[Outgoing], key: str) -> list[Any]:
    found = [
        decode_prediction(one.value or b"")
        for one in out
        if one.target == "predictions" and one.key == key.encode()
    ]
    return [replace(one, sequence=0, prediction_time=0) for one in found]


rows_of_sales = st.lists(
    st.tuples(st.sampled_from(KEYS), st.floats(-1, 1, width=16), st.integers(-1, 3)), max_size=40
)


@settings(max_examples=15, deadline=None)
@given(rows_of_sales, st.integers(1, 20), st.integers(1, 3))
def test_a_key_has_the_race_that_it_has_alone(rows: list[Row], cut: int, per_max: int) -> None:
    """Models, metrics, decisions, answers: whatever else comes, wherever runs end, whoever is in memory."""
    keyed = dataclasses.replace(KEYED, per_max=per_max)
    run = KeyedRun(keyed, source=factory_of(PLAIN), keep_examples=True)
    out = played(run, rows, cut)
    for key in KEYS:
        alone = LocalRun(PLAIN, source=factory_of(PLAIN))
        events, labels = inputs(rows)
        alone.scorer.intake.offer_labels([one for one in labels if one.key == key.encode()])
        alone.scorer.intake.offer_events([one for one in events if one.key == key.encode()])
        of_alone: list[Outgoing] = []
        while (left := alone.advance()) is not None:
            of_alone += left
        assert answers(out, key) == answers(of_alone, key)
        race = run.learner.races.peek(key)
        assert (race is None) == (not alone.learner.examples)
        if race is None:
            continue
        assert race.digests() == alone.learner.digests()
        assert told([one for one in run.decisions if one.key == key]) == told(alone.decisions)
        assert race.evaluation.model_scores() == alone.learner.evaluation.model_scores()
        assert race.evaluation.recent_scores() == alone.learner.evaluation.recent_scores()
        assert {n: r.version for n, r in race.roster.racers.items()} == {
            n: r.version for n, r in alone.learner.roster.racers.items()
        }
    assert len(run.learner.races.resident) <= per_max
    assert run.learner.examples == len(inputs(rows)[1])


# -- the log alone -------------------------------------------------------------------------------------


class Stored:
    """Entries kept apart, as a checkpoint store keeps them."""

    def __init__(self) -> None:
        self.entries: dict[str, bytes] = {}

    def get(self, names: Sequence[str]) -> dict[str, bytes]:
        return {name: self.entries[name] for name in names if name in self.entries}

    def scan(self, after: str, before: str, count: int) -> list[str]:
        return sorted(name for name in self.entries if after < name < before)[:count]

    def count(self, prefix: str) -> int:
        return sum(name.startswith(prefix) for name in self.entries)


class Owner:
    """A learner with a checkpoint: what it is made of again after a crash."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.stored, self.kept = Stored(), dict[str, bytes]()
        self.learner = self._fresh()

    def _fresh(self) -> KeyedLearner:
        return build_keyed_learner(self.pipeline, source=factory_of(PLAIN), stored=self.stored)

    def save(self) -> None:
        for name, data in self.learner.delta().items():
            entries = self.stored.entries if name.startswith(RACES) else self.kept
            entry = name.removeprefix(RACES)
            if data is None:
                entries.pop(entry, None)
            else:
                entries[entry] = data
        self.learner.committed()

    def crash(self) -> None:
        self.learner = self._fresh()
        if self.kept:
            self.learner.restore(self.kept)


def plain_entries(learner: KeyedLearner) -> dict[str, bytes]:
    """Return the state without River's objects, whose bytes say in which order they were stored."""
    return {name: data for name, data in learner.snapshot().items() if not data.startswith(MAGIC)}


@settings(max_examples=15, deadline=None)
@given(
    rows_of_sales,
    st.lists(st.integers(1, 12), min_size=1, max_size=8),
    st.lists(st.sampled_from(["", "save", "crash"]), min_size=1, max_size=8),
    st.integers(1, 3),
)
def test_the_log_alone_gives_the_races_again(
    rows: list[Row], cuts: list[int], acts: list[str], per_max: int
) -> None:
    """However it is cut, whoever is in memory, and restored from a checkpoint of any record."""
    _, log = log_of(rows, COMMANDS)
    whole = build_keyed_learner(dataclasses.replace(KEYED, per_max=100), source=factory_of(PLAIN))
    wanted = of_race(whole.fold(log))
    owner, decisions, number = Owner(dataclasses.replace(KEYED, per_max=per_max)), dict[str, Decision](), 0
    while owner.learner.reading < len(log):
        at = owner.learner.reading
        part = log[at : at + cuts[number % len(cuts)]]
        decisions |= {one.decision_id: one for one in owner.learner.fold(part)}
        act = acts[number % len(acts)] if number < 40 else ""
        number += 1
        assert len(owner.learner.races.resident) <= per_max
        if act == "save":
            owner.save()
        elif act == "crash":
            owner.crash()
    assert owner.learner.digests() == whole.digests()
    assert of_race(list(decisions.values())) == wanted
    assert plain_entries(owner.learner) == plain_entries(whole)
    assert owner.learner.begun == whole.begun
    assert owner.learner.totals.evaluation.model_scores() == whole.totals.evaluation.model_scores()


def test_a_stream_in_which_much_is_decided() -> None:
    """The streams above are short: in this one races change hands, challengers come, races leave memory."""
    rows = [(KEYS[n * n % 7 % 3], ((n * 37) % 101 - 50) / 50, n % 4 - 1) for n in range(500)]
    run, log = log_of(rows)
    kinds = {(one.key, one.type) for one in run.decisions}
    assert {key for key, kind in kinds if kind == "model.promoted"} >= {"a"}
    assert {key for key, kind in kinds if kind == "challenger.started"} == {*KEYS}
    assert run.learner.races.counts["races", "evicted"] > 20
    again = build_keyed_learner(KEYED, source=factory_of(PLAIN))
    assert of_race(again.fold(log)) == of_race(run.decisions)
    assert again.digests() == run.learner.digests()
    ids = [one.decision_id for one in run.decisions]
    assert len(set(ids)) == len(ids)


def test_with_one_model_and_no_delay_each_key_has_rivers_own_figures() -> None:
    """River's `progressive_val_score` over the rows of one key."""
    model = {"lr": preprocessing.StandardScaler() | linear_model.LogisticRegression()}
    made = definition(
        models=model,
        champion="lr",
        challenges=(),
        drift=(),
        features={"amount": field("amount")},
        per="store",
    )
    rows = [(KEYS[n % 3], ((n * 37) % 101 - 50) / 50, 0) for n in range(300)]
    run = KeyedRun(dataclasses.replace(made, per_max=1))
    played(run, rows)
    for key in KEYS:
        of_key = [
            ({"amount": amount}, amount > 0 if key == "a" else amount < 0)
            for k, amount, _ in rows
            if k == key
        ]
        accuracy, log_loss = metrics.Accuracy(), metrics.LogLoss()
        evaluate.progressive_val_score(of_key, model["lr"].clone(), accuracy + log_loss)
        race = run.learner.races.peek(key)
        assert race is not None
        assert race.evaluation.model_scores()["lr"] == {"Accuracy": accuracy.get(), "LogLoss": log_loss.get()}
