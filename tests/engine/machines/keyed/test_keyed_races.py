"""With `per=` each key's race is the race of a pipeline without it over that key's events alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Sequence
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
    folded,
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
from engine.worker.assembly import build_keyed_learner, build_learner
from operators import field
from operators.models.signing import MAGIC
from topics.codec import decode_command, decode_example, decode_prediction, encode
from topics.headers import record_type_of
from topics.messages import Command, Decision, Outgoing, Record


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
    wanted = of_race(folded(whole, log))
    owner, decisions, number = Owner(dataclasses.replace(KEYED, per_max=per_max)), dict[str, Decision](), 0
    while log and owner.learner.reading < len(log):
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


def alone(log: Sequence[Record], key: str, refused: Container[object]) -> list[Record]:
    """Return a key's part of a log, and what is about all keys, numbered as a writer of these alone would.

    Without the commands of these ids.
    """
    found, examples = list[Record](), 0
    for record in log:
        kind, value = record_type_of(record.headers), record.value or b""
        if kind == "example":
            if record.key != key.encode():
                continue
            value = encode(replace(decode_example(value), sequence=examples))
            examples += 1
        elif kind == "command":
            command = decode_command(value)
            if command.key not in {key, ""} or command.command_id in refused:
                continue
        found.append(replace(record, value=value))
    return found


paused_at = st.lists(st.integers(0, 30), max_size=6, unique=True)


@settings(max_examples=15, deadline=None)
@given(rows_of_sales, paused_at, st.lists(st.integers(1, 12), min_size=1, max_size=8), st.integers(1, 3))
def test_a_pause_of_all_races_is_a_pause_of_each(
    rows: list[Row], turns: list[int], cuts: list[int], per_max: int
) -> None:
    """As in a pipeline of the key alone: what is held back, what acts meanwhile, what is learned after it."""
    words = (("pause", "resume")[n % 2] for n in range(len(turns)))
    asked = {at: Command(f"w{at}", word, at) for at, word in zip(sorted(turns), words, strict=True)}  # type: ignore[arg-type]
    others = {at: one for at, one in COMMANDS.items() if one.key}
    _, log = log_of(rows, others | asked)
    owner, number, decisions = Owner(dataclasses.replace(KEYED, per_max=per_max)), 0, list[Decision]()
    while log and (at := owner.learner.reading) < len(log):
        decisions += owner.learner.fold(log[at : at + cuts[number % len(cuts)]])
        number += 1
    # A race that has not begun refuses commands.
    refused = {one.evidence["command_id"] for one in decisions if one.reason.startswith("no race of")}
    for key in KEYS:
        plain, race = build_learner(PLAIN, source=factory_of(PLAIN)), owner.learner.races.peek(key)
        own = alone(log, key, refused)
        of_plain = folded(plain, own) if own else []
        assert (race is None) == (not plain.examples)
        assert plain.paused == owner.learner.paused
        if race is not None:
            of_key = [one for one in decisions if one.key == key]
            assert race.digests() == plain.digests()
            assert told(of_key) == [one for one in told(of_plain) if not one.type.startswith("learning.")]
            assert race.evaluation.model_scores() == plain.evaluation.model_scores()


def test_a_stream_in_which_much_is_decided() -> None:
    """The streams above are short: in this one races change hands, challengers come, races leave memory."""
    rows = [(KEYS[n * n % 7 % 3], ((n * 37) % 101 - 50) / 50, n % 4 - 1) for n in range(500)]
    run, log = log_of(rows)
    kinds = {(one.key, one.type) for one in run.decisions}
    assert {key for key, kind in kinds if kind == "model.promoted"} >= {"a"}
    assert {key for key, kind in kinds if kind == "challenger.started"} == {*KEYS}
    assert run.learner.races.counts["races", "evicted"] > 20
    again = build_keyed_learner(KEYED, source=factory_of(PLAIN))
    assert of_race(folded(again, log)) == of_race(run.decisions)
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
