"""A change of the field acts at its record: whatever file a process has, however the log is cut."""

from __future__ import annotations

import random
import re
from dataclasses import replace as replaced
from typing import Any

import pytest
from fields import Source
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from river import drift, linear_model, metrics, naive_bayes, tree

from engine.machines.field_records import Brought, change_of
from engine.machines.learner import Learner
from operators.drift.detectors import Drift
from operators.drift.watch import Watch
from operators.models.digest import digest
from operators.race.candidates import Candidate, Challenge, Every, Release
from operators.race.evidence import Promotion
from operators.race.field import RaceField
from operators.race.losses import Quantile, ScaledError, loss_of
from operators.race.routing import Canary, Split
from topics import headers
from topics.codec import encode
from topics.errors import ModelError
from topics.messages import Block, Decision, Example, FieldChange, Record

DAY_MS = 86_400_000
TREE = tree.HoeffdingTreeClassifier(grace_period=20)
LINEAR = linear_model.LogisticRegression()
QUIET = Promotion(false_swap_every=1_000_000, opening_error=0)
FIRST = RaceField.of({"tree": TREE, "linear": LINEAR}, champion="tree", promotion=QUIET)
SECOND = RaceField.of(
    {
        "tree": TREE,
        "linear": linear_model.LogisticRegression(l2=0.1),
        "copy": Candidate(TREE, start="champion"),
        "frozen": Candidate(TREE, start="champion", learn="never"),
        "bayes": naive_bayes.GaussianNB(),
    },
    champion="tree",
    promotion=Promotion(false_swap_every=50, evidence_block=4, min_examples=10, cooldown=10),
    drift=[Drift(drift.ADWIN(clock=4))],
    metrics=[metrics.Accuracy()],
    threshold=0.4,
)
THIRD = RaceField.of({"bayes": naive_bayes.GaussianNB(), "tree": TREE}, champion="bayes", promotion=QUIET)


def example(number: int, *, lineup: int = 0) -> Example:
    rng = random.Random(number)
    x = {"a": rng.gauss(0, 1), "b": rng.random()}
    truth = x["a"] > 0.2
    names = ("tree", "linear", "copy", "frozen", "bayes")
    scores = {name: min(max(0.5 + (0.3 if truth else -0.3) * rng.random(), 0.0), 1.0) for name in names}
    return Example(
        f"e{number}", "k", number, number + 5, truth, x, scores, scores["tree"], "champion", "tree",
        0, number, -1, 1, number, lineup=lineup,
    )  # fmt: skip


def change(before: RaceField | None, after: RaceField, **more: Any) -> FieldChange:
    return FieldChange(after.field_id, 0, "" if before is None else before.field_id, **more)


def log(*messages: Example | FieldChange) -> list[Record]:
    """Messages as they lie in the log; examples are numbered as they count."""
    records, sequence = [], 0
    for offset, message in enumerate(messages):
        kind = headers.FIELD
        if isinstance(message, Example):
            message, kind = replace(message, sequence=sequence), headers.EXAMPLE  # noqa: PLW2901
            sequence += 1
        records.append(Record("p.examples", 0, offset, 0, b"k", encode(message), kind))
    return records


WITHOUT_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)
"""A case takes a second, and says what it is as it stands."""
CLAIM = b'{"source_partition":0,"claim":1}'


def claimed(records: list[Record]) -> list[Record]:
    """The same log behind a claim."""
    later = [replace(record, offset=record.offset + 1) for record in records]
    return [Record("p.examples", 0, 0, 0, b"k", CLAIM, headers.CLAIM), *later]


def learner(own: RaceField = FIRST, source: Source | None = None) -> Learner:
    return Learner(
        pipeline="p", task="binary", field=own, source=source or Source(fields=[FIRST, SECOND, THIRD])
    )


def fold(found: Learner, records: list[Record], cuts: tuple[int, ...] = ()) -> list[Decision]:
    """Fold a log in parts, going back where the learner says so."""
    decisions: list[Decision] = []
    ends = sorted({*cuts, len(records)})
    while found.reading < len(records):
        end = next(end for end in ends if end > found.reading)
        decisions += found.fold(records[found.reading : end])
    return decisions


def state(found: Learner) -> tuple[Any, ...]:
    roster = found.roster
    return (
        found.digests(),
        [(c.name, c.version, c.updates, c.learns, c.since) for c in roster.racers.values()],
        roster.champion,
        roster.threshold,
        found.evaluation.model_scores(),
        found.evidence.snapshot(),
        found.field.field_id,
        found.fields.waiting,
    )


WHOLE = claimed(
    log(
        change(None, FIRST),
        *map(example, range(60)),
        change(FIRST, SECOND),
        *(example(number, lineup=1) for number in range(60, 160)),
        change(FIRST, SECOND),  # a repeat
        *(example(number, lineup=1) for number in range(160, 200)),
        change(SECOND, THIRD),
        *(example(number, lineup=1) for number in range(200, 230)),
    )
)


def test_what_enters_is_a_fold_from_its_record_on() -> None:
    found = learner()
    decisions = fold(found, WHOLE[:204])
    racers = found.roster.racers
    lessons = [example(number) for number in range(60, 200)]
    bayes, linear = naive_bayes.GaussianNB(), linear_model.LogisticRegression(l2=0.1)
    for one in lessons:
        bayes.learn_one(one.features, one.label)
        linear.learn_one(one.features, one.label)
    assert digest(racers["bayes"].model) == digest(bayes)
    assert digest(racers["linear"].model) == digest(linear)
    assert digest(racers["copy"].model) == digest(racers["tree"].model)
    frozen = TREE.clone()
    for one in map(example, range(60)):
        frozen.learn_one(one.features, one.label)
    assert digest(racers["frozen"].model) == digest(frozen)
    assert {name: racer.updates for name, racer in racers.items()} == {
        "tree": 200, "linear": 140, "copy": 200, "frozen": 60, "bayes": 140,
    }  # fmt: skip
    assert {name: racer.version for name, racer in racers.items()} == {
        "tree": 1, "linear": 3, "copy": 4, "frozen": 5, "bayes": 6,
    }  # fmt: skip
    told = [(one.type, one.model_name, one.offset) for one in decisions if one.offset == 62]
    assert told == [
        ("field.changed", "tree", 62),
        ("candidate.retired", "linear", 62),
        ("candidate.entered", "linear", 62),
        ("candidate.entered", "copy", 62),
        ("candidate.entered", "frozen", 62),
        ("candidate.entered", "bayes", 62),
    ]
    evidence = decisions[0].evidence
    assert (evidence["field"], evidence["before"]) == (SECOND.field_id, FIRST.field_id)
    assert "false_swap_every=50" in str(evidence["promotion.after"])
    assert evidence["threshold.before"] == "0.5"
    assert found.roster.threshold == 0.4
    assert set(found.evaluation.served_scores()) == {"Accuracy"}


def test_a_champion_that_the_file_names_is_promoted_where_the_last_one_leaves() -> None:
    found = learner()
    decisions = fold(found, WHOLE)
    assert found.roster.champion == "bayes"
    assert list(found.roster.racers) == ["tree", "bayes"]
    told = [(one.type, one.model_name) for one in decisions if one.offset > 203]
    assert (told[0][0], told[1]) == ("field.changed", ("model.promoted", "bayes"))
    assert sorted(told[2:]) == [("candidate.retired", name) for name in ("copy", "frozen", "linear")]


@settings(deadline=None, max_examples=20, phases=WITHOUT_SHRINKING)
@given(
    own=st.sampled_from([FIRST, SECOND, THIRD]),
    cuts=st.lists(st.integers(1, len(WHOLE) - 1), max_size=5),
    restored=st.lists(
        st.tuples(st.integers(1, len(WHOLE) - 1), st.sampled_from([FIRST, SECOND, THIRD])), max_size=3
    ),
)
def test_files_cuts_and_restores_change_nothing(
    own: RaceField, cuts: list[int], restored: list[tuple[int, RaceField]]
) -> None:
    expected = learner()
    fold(expected, WHOLE)
    found = learner(own)
    entries: dict[str, bytes] = {}
    for at, file in sorted(restored, key=lambda pair: pair[0]):
        fold(found, WHOLE[:at], tuple(cut for cut in cuts if cut < at))
        for name, data in found.delta().items():
            if data is None:
                entries.pop(name, None)
            else:
                entries[name] = data
        assert entries.keys() == found.snapshot().keys()
        found = learner(file)
        found.restore(entries)
    fold(found, WHOLE, tuple(cuts))
    assert state(found) == state(expected)


@pytest.mark.parametrize(
    ("after", "says"),
    [
        (RaceField.of({"linear": LINEAR}, champion=None), "`tree` is the champion"),
        (RaceField.of({"tree": tree.HoeffdingTreeClassifier(), "linear": LINEAR}), "`tree` is the champion"),
        (RaceField.of({"new": TREE, "linear": LINEAR}, champion="new"), "`new` cannot be the champion"),
        (
            RaceField.of({"tree": TREE, "b": Candidate(LINEAR, start="champion")}, champion="tree"),
            "`b` starts as a copy",
        ),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_of_it_happens(after: RaceField, says: str) -> None:
    records = claimed(log(change(None, FIRST), *map(example, range(30)), change(FIRST, after)))
    found = learner(source=Source(fields=[FIRST, after]))
    fold(found, records[:-1])
    before = state(found)
    (decision,) = found.fold(records[-1:])
    assert decision.type == "field.refused"
    assert says in decision.reason
    assert set(re.findall(r"`(\w+)`", str(decision.evidence["fix"]))) <= {"tree", "linear", "b"}
    assert state(found) == before


def test_who_waits_enters_by_a_second_record_with_what_it_has_learned() -> None:
    second = RaceField.of(
        {"tree": TREE, "bayes": Candidate(naive_bayes.GaussianNB(), start="log")}, champion="tree"
    )
    source = Source(fields=[second])
    only = RaceField.of({"tree": TREE}, champion="tree")
    warm = naive_bayes.GaussianNB()
    for one in map(example, range(40)):
        warm.learn_one(one.features, one.label)
    found = learner(only, source)
    begun = [change(None, only), *map(example, range(30)), change(only, second, waiting=("bayes",))]
    fold(found, claimed(log(*begun)))
    assert list(found.roster.racers) == ["tree"]
    assert found.fields.waiting == ("bayes",)
    brought = {"bayes": Brought(source.put(second, warm), 40, 2, 45)}
    asked = change(second, second)
    draft = found.planned(replace(asked, entering=(entering("bayes", brought["bayes"]),)))
    assert draft is not None
    record = change_of(draft, 0, brought)
    later = [*map(example, range(30, 45)), record, record, *map(example, range(45, 50))]
    decisions = fold(found, claimed(log(*begun, *later)))
    racer = found.roster.racers["bayes"]
    assert (racer.updates, found.fields.waiting) == (45, ())
    for one in map(example, range(45, 50)):
        warm.learn_one(one.features, one.label)
    assert digest(racer.model) == digest(warm)
    entered = [one for one in decisions if one.type == "candidate.entered"]
    assert len(entered) == 1
    assert entered[0].evidence["learned_to"] == 45


WARMING = RaceField.of(
    {"tree": TREE, "bayes": Candidate(naive_bayes.GaussianNB(), start="log")}, champion="tree"
)
RETUNED = replaced(WARMING, promotion=Promotion(min_examples=500))
BEGUN_AFRESH = RaceField.of({"tree": TREE, "bayes": naive_bayes.GaussianNB()}, champion="tree")
ONLY = RaceField.of({"tree": TREE}, champion="tree")
REFUSED = [
    change(None, ONLY),
    *map(example, range(30)),
    change(ONLY, WARMING, waiting=("bayes",)),
    *map(example, range(30, 40)),
    change(WARMING, WARMING, refused={"bayes": "ValueError: no, at the lesson of offset 7"}),
    change(WARMING, WARMING, refused={"bayes": "a repeat"}),
]


def test_who_fails_at_the_log_is_refused_once_and_tried_again_only_where_the_file_says_something_else() -> (
    None
):
    source = Source(fields=[WARMING, RETUNED, BEGUN_AFRESH])
    found = learner(ONLY, source)
    decisions = fold(found, claimed(log(*REFUSED)))
    told = [(one.type, one.model_name, one.model_version) for one in decisions[-2:]]
    assert told == [("field.changed", "tree", 1), ("candidate.refused", "bayes", 0)]
    assert decisions[-1].reason == "ValueError: no, at the lesson of offset 7"
    assert decisions[-1].evidence["start"] == "log"
    assert (found.fields.waiting, found.fields.refused) == ((), ("bayes",))
    late = replace(change(WARMING, WARMING), entering=(entering("bayes", Brought("", 3, 0, 3)),))
    retuned = [*REFUSED, late, change(WARMING, RETUNED), *map(example, range(40, 50))]
    again = learner(WARMING, source)
    again.restore(found.snapshot())
    for one in (found, again):
        assert [each.type for each in fold(one, claimed(log(*retuned)))] == ["field.changed"]
        assert list(one.roster.racers) == ["tree"]
        assert one.fields.refused == ("bayes",)
        assert one.fields.entering(RETUNED) == ()
    assert found.fields.entering(BEGUN_AFRESH) == ("bayes",)
    decisions = fold(found, claimed(log(*retuned, change(RETUNED, BEGUN_AFRESH))))
    assert [(one.type, one.model_name) for one in decisions][1:] == [("candidate.entered", "bayes")]
    assert found.fields.refused == ()
    assert found.roster.lineup == 0, "its name has never been another racer's"


def test_one_that_waits_goes_on_waiting_where_a_file_changes_something_else() -> None:
    source = Source(fields=[WARMING, RETUNED])
    found = learner(ONLY, source)
    begun = REFUSED[:-2]
    fold(found, claimed(log(*begun)))
    assert found.fields.entering(RETUNED) == ("bayes",)
    begun.append(change(WARMING, RETUNED, waiting=("bayes",)))
    fold(found, claimed(log(*begun)))
    assert (found.fields.waiting, list(found.roster.racers)) == (("bayes",), ["tree"])


def test_an_entry_into_a_field_that_holds_no_more_changes_nothing() -> None:
    source = Source(fields=[WARMING, RETUNED])
    found = learner(ONLY, source)
    begun = [*REFUSED[:-2], change(WARMING, RETUNED, waiting=("bayes",))]
    fold(found, claimed(log(*begun)))
    before = state(found)
    brought = (entering("bayes", Brought(source.put(WARMING, naive_bayes.GaussianNB()), 3, 0, 3)),)
    late = [change(WARMING, WARMING, entering=brought), change(WARMING, WARMING, refused={"bayes": "no"})]
    assert fold(found, claimed(log(*begun, *late))) == []
    assert state(found) == before


def entering(name: str, brought: Brought) -> Any:
    from topics.messages import Entrant

    return Entrant(name, "", "log", **brought._asdict())


def test_a_score_of_the_model_that_had_the_name_before_judges_nobody() -> None:
    late = [example(number) for number in range(60, 80)]
    now = [example(number, lineup=1) for number in range(80, 90)]
    records = claimed(log(change(None, FIRST), *map(example, range(60)), change(FIRST, SECOND), *late, *now))
    found = learner()
    fold(found, records)
    assert found.evaluation.counts()["linear"][0] == 10
    assert found.evaluation.counts()["bayes"][0] == 30
    assert found.roster.racers["linear"].updates == 30


def test_a_field_that_is_nowhere_is_an_error_that_says_so() -> None:
    found = learner(source=Source(fields=[FIRST]))
    with pytest.raises(ModelError, match="no field"):
        fold(found, WHOLE)


def test_what_a_released_candidate_brings_is_its_twins_too() -> None:
    field = RaceField.of(
        {"tree": TREE, "bayes": Candidate(naive_bayes.GaussianNB(), release=Release(every=64))},
        champion="tree",
    )
    source, warm = Source(fields=[field]), naive_bayes.GaussianNB()
    for one in map(example, range(40)):
        warm.learn_one(one.features, one.label)
    brought = entering("bayes", Brought(source.put(field, warm), 40))
    found = learner(field, source)
    stored = found.delta()
    fold(found, claimed(log(change(None, field, entering=(brought,)))))
    for name in ("bayes", "bayes-twin"):
        racer = found.roster.racers[name]
        assert (digest(racer.model), racer.updates) == (digest(warm), 40)
    assert found.roster.racers["bayes"].model is not found.roster.racers["bayes-twin"].model
    stored |= found.delta()
    other = learner(field, source)
    other.restore({name: data for name, data in stored.items() if data is not None})
    assert other.digests() == found.digests()


def test_a_name_that_the_race_has_given_is_another_model_when_a_file_has_it() -> None:
    """What was answered under the name before does not count for the one that enters."""
    challenge = Challenge(Every(20), max=1)
    before = RaceField.of({"tree": TREE, "linear": LINEAR}, champion="linear", challenges=[challenge])
    started = "linear-3"
    after = RaceField.of({"tree": TREE, started: TREE}, champion="tree")
    found = learner(before, Source(fields=[before, after]))
    records = claimed(log(change(None, before), *map(example, range(30)), change(before, after)))
    fold(found, records[:-1])
    assert list(found.roster.racers) == ["tree", "linear", started]
    found.fold(records[-1:])
    assert list(found.roster.racers) == ["tree", started]
    assert found.roster.racers[started].definition == started
    assert found.roster.racers[started].since == found.roster.lineup > 0


def test_a_checkpoint_before_the_log_was_read_says_nothing_of_its_first_field() -> None:
    """Both fields have a first version of `linear`, of another model each."""
    source = Source(fields=[FIRST, SECOND])
    found = learner(SECOND, source)
    stored = found.delta()
    fold(found, claimed(log(change(None, FIRST))))
    stored |= found.delta()
    other = learner(SECOND, source)
    other.restore({name: data for name, data in stored.items() if data is not None})
    assert other.digests() == found.digests()


@pytest.mark.parametrize("loss", [Quantile(0.9), "brier", metrics.MAE()])
def test_another_loss_of_a_regression_judges_from_its_record_on(loss: Any) -> None:
    def field(loss: Any) -> RaceField:
        model = linear_model.LinearRegression()
        return RaceField.of({"a": model}, champion="a", promotion=Promotion(loss=loss))

    def number(n: int) -> Example:
        return replace(example(n), label=float(n % 7), scores={"a": 2.0}, served_score=2.0, model_name="a")

    before, after = field(Quantile(0.1)), field(loss)
    source = Source("regression", [before, after])
    found = Learner(pipeline="p", task="regression", field=before, source=source)
    fold(
        found,
        claimed(log(change(None, before), *map(number, range(20)), change(before, after), number(20))),
    )
    expected = loss_of("regression", loss)
    if isinstance(expected, ScaledError):
        for n in range(21):
            expected.update(float(n % 7))
    assert found.learning.loss(5.0, 2.0) == expected(5.0, 2.0)
    other = Learner(pipeline="p", task="regression", field=before, source=source)
    other.restore(found.snapshot())
    assert other.learning.loss(5.0, 2.0) == expected(5.0, 2.0)


def test_a_file_that_names_no_champion_any_more_opens_nothing_after_a_restore_either() -> None:
    named = RaceField.of({"tree": TREE, "linear": LINEAR}, champion="tree", promotion=QUIET)
    unnamed = RaceField.of({"tree": TREE, "linear": LINEAR}, opening="leader", promotion=QUIET)
    source = Source(fields=[named, unnamed])
    records = claimed(
        log(
            change(None, named),
            *map(example, range(30)),
            change(named, unnamed),
            *map(example, range(30, 200)),
        )
    )
    found, other = learner(named, source), learner(unnamed, source)
    fold(found, records[:33])
    other.restore(found.snapshot())
    decisions = [one.type for one in fold(found, records)]
    assert [one.type for one in fold(other, records)] == decisions
    assert state(found) == state(other)


def test_a_policy_begins_alike_whatever_file_a_process_has() -> None:
    """Revisions are on predictions and say which answers count, so they are a function of the log."""
    first, second = (
        RaceField.of(
            {"tree": TREE, "linear": LINEAR}, champion="tree", promotion=QUIET, serving=Split(shares)
        )
        for shares in ({"tree": 0.5, "linear": 0.5}, {"tree": 0.9, "linear": 0.1})
    )
    source = Source(fields=[first, second])
    records = claimed(log(change(None, first), *map(example, range(30)), change(first, second), example(30)))
    tables = []
    for own in (first, second):
        found = learner(own, source)
        fold(found, records[:20])
        begun = found.roster.routing
        other = learner(own, source)
        other.restore(found.snapshot())
        fold(other, records)
        fold(found, records)
        assert other.roster.routing == found.roster.routing
        tables.append((begun, found.roster.routing))
    assert tables[0] == tables[1]
    assert [table.revision for table in tables[0] if table is not None] == [1, 2]


@pytest.mark.parametrize("cut", [20, 50, 60])
def test_a_revision_is_used_once_also_where_nobody_shared_the_answers_between(cut: int) -> None:
    """Answers of the first split would count as the third's, were revisions to begin again."""
    fields = [
        RaceField.of({"tree": TREE, "linear": LINEAR}, champion="tree", promotion=QUIET, serving=policy)
        for policy in (Split({"tree": 0.5, "linear": 0.5}), None, Split({"tree": 0.9, "linear": 0.1}))
    ]
    source = Source(fields=fields)
    messages = [change(None, fields[0])]
    for step in range(5):
        before, after = fields[step % 3], fields[(step + 1) % 3]
        messages += [*map(example, range(20 * step, 20 * step + 19)), change(before, after)]
    records = claimed(log(*messages))
    found, again, revisions = learner(fields[1], source), learner(fields[2], source), []
    for record in records:
        if record.offset == cut:
            again.restore(found.snapshot())
        for one in (found, again) if record.offset >= cut else (found,):
            fold(one, records[: record.offset + 1])
        if found.roster.routing is not None:
            revisions.append(found.roster.routing.revision)
    assert list(dict.fromkeys(revisions)) == [1, 2, 3, 4]
    assert sorted(revisions) == revisions
    assert again.roster.routing == found.roster.routing
    assert state(again) == state(found)
    assert again.snapshot()["place"] == found.snapshot()["place"]


@pytest.mark.parametrize(
    "after",
    [{"serving": None}, {"promotion": replaced(QUIET, loss="zero_one")}, {"threshold": 0.4}],
    ids=list,
)
def test_a_canary_that_another_file_ends_says_so(after: dict[str, Any]) -> None:
    """Another policy does, and what would be judged by another loss: its watches are of the one before."""
    canary = {"promotion": QUIET, "serving": Canary(steps=(0.1, 1.0), hold=500)}
    fields = [
        RaceField.of({"tree": TREE, "linear": LINEAR}, champion="tree", **settings)
        for settings in (canary, canary | after)
    ]
    source = Source(fields=fields)
    records = claimed(log(change(None, fields[0]), *map(example, range(30)), change(*fields), example(30)))
    found = learner(fields[0], source)
    fold(found, records[:20])
    assert found.arena.canary is not None
    found.learning.act(19, lambda at: found.arena.succeed("linear", at, "evidence", {}))
    assert found.roster.routing is not None
    assert [(one.type, one.reason) for one in fold(found, records)][-1] == ("canary.aborted", "the file")
    assert found.roster.routing is None
    assert (found.arena.canary is None) == ("serving" in after)


def test_a_proposal_that_no_field_asks_for_any_more_expires_after_a_restore_too() -> None:
    asks, asks_nobody = (
        RaceField.of(
            {"tree": TREE, "linear": LINEAR}, champion="tree", promotion=replaced(QUIET, approve=approve)
        )
        for approve in ("manual", "evidence")
    )
    source = Source(fields=[asks, asks_nobody])
    records = claimed(
        log(
            change(None, asks),
            *map(example, range(10)),
            change(asks, asks_nobody),
            *map(example, range(10, 99)),
        )
    )
    found = learner(asks, source)
    fold(found, records[:6])
    found.learning.act(5, lambda at: found.approvals.asked(at, "linear", {})[1])
    fold(found, records[:14])
    other = learner(asks, source)
    other.restore(found.snapshot())
    expired = [one.type for one in fold(found, records)]
    assert expired == ["proposal.expired"]
    assert [one.type for one in fold(other, records)] == expired


def test_a_verdict_of_another_watch_ends_with_it() -> None:
    """Who watches from here on knows nothing of the shift, and nobody would ever say that it is over."""
    watch = Watch(reference_span="14d")
    fields = [RaceField.of({"tree": TREE}, champion="tree", watch=one) for one in (watch, None)]
    records = claimed(log(change(None, fields[0]), example(0), change(*fields), example(1)))
    found = learner(fields[0], Source(fields=fields))
    fold(found, records[:2])
    assert found.watching is not None
    for number in range(41):
        values = [0.3 * (number == 40) + (7 * n + number) % 20 / 10 for n in range(40)]
        begin, keys = number * DAY_MS, list(range(40))
        block = Block(number, begin, begin + DAY_MS, 40, 0, {}, {}, keys, {"x": values}, [0.5] * 40)
        found.watching.watcher.fold_block(block)
    assert found.watching.watcher.open is not None
    ended = fold(found, records)[-1]
    assert (ended.type, ended.time, ended.evidence["given_up"]) == ("shift.ended", 41 * DAY_MS, 1.0)
    assert found.watching is None
