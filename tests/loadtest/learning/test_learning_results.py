"""The rules beside the race, each against its definition in a few lines; the page's parts."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import linear_model, metrics, tree

from engine import Promotion
from engine.offline.backtest import LocalRun, backtest
from engine.worker.assembly import build_learner
from engine.worker.model_factory import ModelFactory
from loadtest.evidence import __main__ as evidence
from loadtest.learning import __main__ as learning
from loadtest.learning import imbalance as rare
from loadtest.learning import rules
from loadtest.learning.bad_slices import CHUNK, PLANTS, Sighted, Wrong, _monitor, _rows
from loadtest.learning.calibrated import CORRECTIONS, Honesty
from loadtest.learning.delays import biases, corrections
from loadtest.learning.estimates import Errors, Stretch
from loadtest.learning.hostile import DEFENCES, hostile
from loadtest.learning.page import (
    biases_table,
    calibrated_table,
    corrections_table,
    estimates_table,
    goals_table,
    hostile_table,
    imbalance_table,
    planted_table,
    put,
    releases_table,
    stationary_table,
    streams_table,
)
from loadtest.learning.releases import released
from loadtest.learning.rules import outcomes
from loadtest.learning.stream_run import StreamRun, records_of_lines, stream_run_of
from loadtest.learning.streams import STREAMS, Stream, lines_of_rows, race_of
from operators.versions import release as gate
from topics.errors import SettingsError


@st.composite
def runs(draw: st.DrawFn) -> StreamRun:
    """A binary run of two candidates whose labels come some rows late, and in another order."""
    rows = draw(st.integers(1, 60))
    shares = st.lists(st.floats(0, 1), min_size=rows, max_size=rows)
    known = [(row + draw(st.integers(1, 5)), row) for row in range(rows)]
    steps = sorted([(row, 1, row, False) for row in range(rows)] + [(at, 0, row, True) for at, row in known])
    return StreamRun(
        "binary",
        ["a", "b"],
        draw(st.lists(st.booleans(), min_size=rows, max_size=rows)),
        {"a": draw(shares), "b": draw(shares)},
        draw(shares),
        [(row, label) for _, _, row, label in steps],
        [],
    )


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@given(runs())
def test_served_and_singles_are_means_of_their_own_scores(run: StreamRun) -> None:
    found = outcomes(run)
    columns: dict[str, list[Any]] = {**run.scores, "served": run.served}
    losses = {
        name: mean([(label - score) ** 2 for label, score in zip(run.labels, column, strict=True)])
        for name, column in columns.items()
    }
    assert found.served.loss == pytest.approx(losses["served"])
    assert found.first.loss == pytest.approx(losses["a"])
    assert found.best.loss == pytest.approx(min(losses["a"], losses["b"]))
    hits = [(score > 0.5) == label for label, score in zip(run.labels, columns["served"], strict=True)]
    assert found.served.metric == pytest.approx(mean(hits))


@given(runs())
def test_the_last_label_is_that_known_before_the_answer(run: StreamRun) -> None:
    wrong, last = [], None
    for row, known in run.steps:
        if known:
            last = run.labels[row]
        elif last is not None:
            wrong.append(last != run.labels[row])
    if wrong:
        assert outcomes(run).last.loss == pytest.approx(mean(wrong))


@given(runs(), st.integers(1, 8))
def test_the_window_rule_looks_only_at_the_last_labels_that_are_known(run: StreamRun, window: int) -> None:
    champion, known_rows, answers, swaps = "a", [], {}, []
    other = {"a": "b", "b": "a"}
    for row, known in run.steps:
        if not known:
            answers[row] = run.scores[champion][row]
            continue
        known_rows.append(row)
        recent = known_rows[-window:]
        loss = {
            name: sum((run.labels[at] - scores[at]) ** 2 for at in recent)  # type: ignore[operator]
            for name, scores in run.scores.items()
        }
        ahead = loss[champion] - loss[other[champion]] - rules.MARGIN * window
        if abs(ahead) < 1e-9:
            return  # rounding decides
        if len(recent) == window and ahead > 0:
            champion = other[champion]
            swaps.append(len(known_rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, "WINDOW", window)
        found = outcomes(run).window
    assert found.swaps == tuple(swaps)
    expected = [(run.labels[row] - score) ** 2 for row, score in answers.items()]
    assert found.loss == pytest.approx(mean(expected))


@pytest.mark.data
def test_a_run_is_the_backtest_row_by_row(data_dir: Path, tmp_path: Path) -> None:
    stream = next(one for one in STREAMS if one.name == "elec2-late")
    events, labels = (list(lines)[:1_500] for lines in stream.records(data_dir))
    pipeline = stream.pipeline()
    run = stream_run_of(pipeline, events, labels)
    files = tmp_path / "events.jsonl", tmp_path / "labels.jsonl"
    for path, lines in zip(files, (events, labels), strict=True):
        path.write_bytes(b"\n".join(lines))
    report = backtest(pipeline, *files)
    assert len(run.labels) == report["examples"]
    for name, column in run.scores.items():
        metric = metrics.Accuracy()
        for label, score in zip(run.labels, column, strict=True):
            if score is not None:
                metric.update(label, score > 0.5)  # type: ignore[operator]
        told = report["on_own_rows"][name]
        assert metric.get() == told["Accuracy"]


def test_a_part_of_the_page_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    before = "# A\n<!-- made: goals (x) -->\nold\n<!-- end: goals -->\n<!-- made: b -->\nb\n<!-- end: b -->\n"
    page.write_text(before)
    put(page, "goals", "new\\1", "make --only goals")
    made = re.sub(r"\d{4}-\d\d-\d\d", "TODAY", page.read_text())
    assert made == before.replace("old", "\nnew\\1\n\nMade on TODAY by `make --only goals`.\n")
    with pytest.raises(SettingsError, match="0 parts called `streams`"):
        put(page, "streams", "x", "make")


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        (
            learning,
            {
                "streams",
                "goals",
                "freshness",
                "releases",
                "hostile",
                "imbalance",
                "calibrated",
                "estimates",
                "positions",
            }
            | {"slices-planted", "slices-stationary", "monitor-costs"},
        ),
        (evidence, {"false-swaps", "delays", "collapse", "opening", "frontier", "disasters"}),
    ],
)
def test_every_part_of_the_page_says_which_command_made_it_and_when(command: Any, parts: set[str]) -> None:
    page = command.PAGE.read_text()
    found = re.findall(r"<!-- made: ([a-z-]+) \((.*)\) -->\n(.*?)<!-- end: \1 -->", page, re.DOTALL)
    mine = {name: text for name, made_by, text in found if made_by == command.COMMAND}
    assert set(mine) == parts
    for name, text in mine.items():
        made = re.search(rf"\nMade on \d{{4}}-\d\d-\d\d by `{command.COMMAND} --only ([a-z-]+)`\.\n\n$", text)
        assert made, name
        assert made[1] in {*command.Part}


def test_an_attack_and_its_defences_are_one_table() -> None:
    found = hostile(rows=40)
    table = hostile_table(found).splitlines()
    assert len(table) == 2 + len(DEFENCES) * 4
    assert table[2].startswith("| linear | none | .000 | .000 | .000 | 0 | 0 | 0 | 0 |")


def few_frauds(count: int) -> rare.Fraud:
    """A transaction an hour; those of every fifth terminal are frauds where they are large."""
    hour_ms, start = 3_600_000, 1_522_540_800_000
    return rare.fraud_of(
        [
            {
                "TRANSACTION_ID": n,
                "CUSTOMER_ID": n % 7,
                "TERMINAL_ID": n % 11,
                "TX_AMOUNT": float(n * 37 % 300),
                "TX_FRAUD": int(n % 11 == 0 and n * 37 % 300 > 150),
                "time": start + n * hour_ms,
            }
            for n in range(count)
        ]
    )


def test_every_remedy_has_a_row_and_every_rule_and_what_was_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rare, "SETTLED_DAYS", 10)
    data = few_frauds(600)
    found = rare.imbalance(data, jobs=1)
    assert {(model, remedy) for model, by_remedy in found.items() for remedy in by_remedy} == {
        *((model, remedy) for model, remedy, _ in rare.candidates().values()),
        *(("rules", rule) for rule in rare.rules([])),
        ("served", "Promotion()"),
        ("served", "Promotion(cost=...)"),
    }
    head, _, *lines = imbalance_table(found).splitlines()
    assert len(lines) == len(rare.candidates()) + 5
    assert {line.count("|") for line in (head, *lines)} == {14}
    measured = data.rows[10 * 24 :]
    never = found["rules"]["never"][1]
    frauds = sum(row["TX_FRAUD"] for row in measured)
    assert never.cost == pytest.approx(20_000 * frauds / len(measured))
    assert never.recall == 0.0
    large = [row["TX_AMOUNT"] > rare.LARGE for row in measured]
    wrong = sum(
        20 * row["TX_FRAUD"] if not said else 1 - row["TX_FRAUD"]
        for row, said in zip(measured, large, strict=True)
    )
    assert found["rules"]["amount > 220"][1].cost == pytest.approx(1_000 * wrong / len(measured))
    verdicts = [*rare.rules(data.rows).values()][2]
    week = 7 * 24
    for n in range(week, 600):
        known = [row["TX_FRAUD"] for row in data.rows[: n - week + 1] if row["TERMINAL_ID"] == n % 11]
        assert verdicts[n] == float(data.rows[n]["TX_AMOUNT"] > rare.LARGE or bool(known and known[-1]))


def test_a_race_of_remedies_goes_on_after_a_checkpoint_as_if_nothing_had_been() -> None:
    data, pipeline = few_frauds(500), rare.imbalance_race(promotion=Promotion(cost=rare.COSTS))
    run = LocalRun(pipeline, keep_examples=True)
    run.scorer.intake.offer_events(records_of_lines(pipeline.events.name, data.events))
    run.scorer.intake.offer_labels(records_of_lines(pipeline.labels.topic or "", data.labels))
    while run.advance() is not None:
        pass
    log, source = run.examples or [], ModelFactory(pipeline)
    whole, half = build_learner(pipeline, source=source), build_learner(pipeline, source=source)
    whole.fold(log)
    half.fold(log[: len(log) // 2])
    again = build_learner(pipeline, source=source)
    again.restore(half.snapshot())
    again.fold(log[len(log) // 2 :])
    assert again.digests() == whole.digests() == run.learner.digests()
    assert again.evaluation.model_scores() == whole.evaluation.model_scores()


def test_what_is_missed_is_said() -> None:
    run = StreamRun(
        "binary", ["a"], [True, False], {"a": [0.9, 0.2]}, [0.8, 0.2], [(0, False), (1, False), (0, True)], []
    )
    found = {"toy": ("binary", outcomes(run))}
    assert "**missed** (+60.0%) | met (0)" in goals_table(found)  # type: ignore[arg-type]
    assert streams_table(found).splitlines()[2].startswith("| toy | 2 | **.0400 (1.000)** | .0250")  # type: ignore[arg-type]


def test_a_missing_data_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="electricity"):
        STREAMS[0].records(tmp_path)


def test_releases_are_measured_with_and_without_their_gate() -> None:
    def records(_: Path) -> tuple[list[bytes], list[bytes]]:
        rows = [(n * 1_000, {"x": float(n % 7)}, n % 7 > 3, n * 1_000 + 1) for n in range(400)]
        return lines_of_rows(rows)

    models = {"linear": linear_model.LogisticRegression(), "tree": tree.HoeffdingTreeClassifier()}
    found = released(Stream("s", "a stream", race_of("s", ("x",), models), records), Path(), every=100)
    assert found.keys() == models.keys()
    assert [one.versions + one.held for one in found.values()] == [4, 4]
    linear = found["linear"]
    assert linear.always < min(linear.gated, linear.ungated), "what has learned more knows more of this"
    assert gate.WORSE_DEVIATIONS < 10, "the gate is back in its place"
    head, _, *lines = releases_table({"a stream": found}).splitlines()
    assert len(lines) == 2
    assert {line.count("|") for line in (head, *lines)} == {9}


def test_early_positives_bias_what_is_learned_as_labels_come_and_nothing_else() -> None:
    found = biases(rows=6_000)
    grown = found["traffic doubles every hour"]
    assert grown["when_joined"].late > 0.08
    assert abs(grown["uniform"].late) < 0.04
    assert abs(grown["corrected"].late) < 0.04
    fallen = found["the rate falls at once"]
    assert fallen["corrected"].late < fallen["uniform"].late
    assert "`corrected`" in biases_table(found)


def test_what_is_reported_is_true_where_labels_are_corrected() -> None:
    found = corrections(rows=2_000)
    assert found["None"].reported > found["None"].true + 0.02
    for how in ("record", "relearn"):
        assert found[how].reported == pytest.approx(found[how].true)
    assert found["relearn"].true < found["record"].true
    assert "`record`" in corrections_table(found)


def test_a_planted_slice_loses_as_much_as_its_table_says() -> None:
    plant = PLANTS["a pair of values, three times the loss"]
    rows = _rows(random.Random(1), 40 * CHUNK, plant)
    inside = [
        lost
        for example, (lost, _) in zip(rows.examples, rows.tested, strict=True)
        if plant.slice.items() <= example.features.items() and lost is not None
    ]
    assert len(inside) / len(rows) == pytest.approx(plant.share, abs=0.01)
    assert mean(inside) == pytest.approx(plant.worse * 0.16, abs=0.05)
    monitor = _monitor(1_000_000)
    monitor.observe(rows)
    assert monitor.report()["candidates"] == 2_030


def test_tables_of_what_is_seen_of_answers_say_met_and_missed() -> None:
    honest = calibrated_table({"s": {"m": dict.fromkeys(CORRECTIONS, Honesty(0.1234, 0.05))}})
    assert honest.splitlines()[2] == "| s | m | .123 (.0500) | .123 (.0500) | .123 (.0500) |"
    span = Stretch(0.8, 0.75, 0.05, 0.01)
    told = estimates_table({"m": {"drift": Errors(span, span, span)}})
    assert told.count(".800, was .750; .050 off (chance .010)") == 3
    planted = planted_table({"one value": Sighted(0, None, 2)})
    assert planted.splitlines()[2] == "| one value | 20% | x 1.5 | 0 |  | 2 |"
    wrong = stationary_table({10: Wrong(100, 10.0, 11), 50: Wrong(100, 2.0, 2)}).splitlines()[2:]
    assert wrong == ["| 10 | 100 | 10 | 11 (**missed**) |", "| 50 | 100 | 2 | 2 (met) |"]
