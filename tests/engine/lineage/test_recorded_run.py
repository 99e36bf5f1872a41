"""Versions, reproduction, export, cards and explanations of a recorded run, against what the run knew."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import math
import pickle
import re
import struct
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from paths import CHECKOUT
from river import compose, linear_model, preprocessing
from typer.testing import CliRunner

from engine.cli.main import app
from engine.definition.file import load_pipeline
from engine.definition.pipeline import Pipeline
from engine.lineage.card import Section, card, card_html, card_markdown
from engine.lineage.history import history_of, version_difference
from engine.lineage.reproduction import exported, reproduce
from engine.lineage.sources import PipelineLogs
from engine.offline.backtest import LocalRun
from engine.offline.recording import Recording
from engine.offline.replay import FileLog, Replay
from engine.settings import Settings
from engine.worker.assembly import build_learner
from engine.worker.model_factory import ModelFactory
from operators.models.artefacts import allow_for, load
from operators.models.digest import digest
from operators.models.guards import bare
from operators.models.signing import SigningKeys
from operators.race.candidates import Artefact, Candidate
from operators.race.field import RaceField
from topics import headers
from topics.codec import encode
from topics.errors import ModelError, SettingsError
from topics.messages import Command, Decision, ModelPointer, Outgoing, Record

EVENTS, HOUR = 900, 3_600_000
START = 1_700_000_000_000
SOURCE = """
from msgspec import Struct
from river import linear_model, preprocessing, tree
from headrace import Labels, Pipeline, Promotion, Topic, by, field

class Trip(Struct):
    event_id: str
    event_time: int
    city: str
    distance: float

pipeline = Pipeline(
    name="trips",
    events=Topic("trips.events", Trip, key="city"),
    labels=Labels("trips.labels", wait="1d"),
    features={"distance": field("distance"), "mean_1h": by("city").mean("distance", "1h").default(0.0)},
    models={
        "tree": tree.HoeffdingTreeClassifier(grace_period=50, max_depth=4),
        "linear": preprocessing.StandardScaler() | linear_model.LogisticRegression(),
    },
    champion="tree",
    promotion=Promotion(false_swap_every=1_000_000_000, opening_error=0),
)
"""


class Run:
    """One recorded run: what it did, and what is known of it without the recording."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "trips.py"
        self.file.write_text(SOURCE)
        self.folder = folder / "recorded"
        self.pipeline: Pipeline = load_pipeline(self.file)
        self.digests: dict[int, dict[str, str]] = {}
        """By number of labels, the models' digests in the run itself."""
        with Recording(self.folder, self.pipeline) as recording:
            self.run = LocalRun(self.pipeline, recording=recording, keep_examples=True)
            for number in range(EVENTS):
                self._event(number)
                if number in {300, 600}:
                    self._command("linear" if number == 300 else "tree", number)
                if number in {299, 450, EVENTS - 1}:
                    learner = self.run.learner
                    self.digests[learner.examples] = learner.digests()
            recording.point(self.run.learner)
        assert self.run.learner.examples == EVENTS

    def _event(self, number: int) -> None:
        time, distance = START + number * 60_000, float(number % 13)
        event = {"event_id": f"e{number}", "event_time": time, "city": "ab"[number % 2], "distance": distance}
        label = {"event_id": f"e{number}", "label": distance > 6, "label_time": time + 30_000}
        run = self.run
        run.scorer.intake.offer_events(
            [Record("trips.events", 0, number, None, None, json.dumps(event).encode())]
        )
        run.scorer.intake.offer_labels(
            [Record("trips.labels", 0, number, None, None, json.dumps(label).encode())]
        )
        while run.advance() is not None:
            pass

    def _command(self, model: str, number: int) -> None:
        """Let a person promote a model, as a worker does: a record of the examples log."""
        command = Command(f"c{number}", "promote", START, model_name=model, actor="ada", reason="a try")
        run = self.run
        run._fold([Outgoing("examples", 0, b"c", encode(command), headers.COMMAND, START)])

    def logs(self) -> PipelineLogs:
        return PipelineLogs(self.pipeline, Settings(), self.folder)

    def ask(self, *words: str, code: int = 0) -> str:
        group, *rest = words
        arguments = (
            [group, *rest[:1], str(self.file), *rest[1:]]
            if group == "models"
            else [group, str(self.file), *rest]
        )
        done = CliRunner().invoke(app, [*arguments, "--recording", str(self.folder)])
        assert done.exit_code == code, (done.output, done.exception)
        return done.output

    def asked(self, *words: str, code: int = 0) -> Any:
        return json.loads(self.ask(*words, "--json", code=code))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("trips"))


def replay_of(run: Run) -> Replay:
    return asyncio.run(run.logs().replay())


# -- the recording and its fold -----------------------------------------------------------------------


def test_a_recording_holds_the_records_of_the_run_to_the_byte(recorded: Run) -> None:
    async def read(start: int) -> list[Record]:
        log = FileLog(recorded.folder / "examples.jsonl", "trips.examples")
        return [record async for records in log.read(start) for record in records]

    assert asyncio.run(read(0)) == recorded.run.examples
    assert asyncio.run(read(700)) == (recorded.run.examples or [])[700:]


def test_a_fold_to_every_state_that_the_run_had_gives_its_digests(recorded: Run) -> None:
    async def fold() -> None:
        replay = await recorded.logs().replay()
        for examples, digests in recorded.digests.items():
            await replay.to_state(2, examples)
            assert replay.learner.digests() == digests
            assert replay.learner.examples == examples
        await replay.to(None)
        assert replay.decisions == recorded.run.decisions

    asyncio.run(fold())


def test_a_state_that_never_was_is_refused(recorded: Run) -> None:
    with pytest.raises(ModelError, match="no 2@5000 in the examples log"):
        asyncio.run(replay_of(recorded).to_state(2, 5_000))
    with pytest.raises(ModelError, match="never raced"):
        asyncio.run(replay_of(recorded).to_state(9, 5))
    with pytest.raises(ModelError, match="ends at 903, before 5000"):
        asyncio.run(replay_of(recorded).to(5_000))


def test_a_line_without_headers_is_refused_and_a_bare_message_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    path.write_text('{"partition": 0, "offset": 3, "value": {}}\n')
    with pytest.raises(SettingsError, match=r"line 1 has no headers.*\n.*--headers --claims"):
        asyncio.run(anext(FileLog(path, "t").read()))
    path.write_text('{"event_id": "e"}\n')
    (record,) = asyncio.run(anext(FileLog(path, "t").read()))
    assert (record.offset, record.value) == (0, b'{"event_id": "e"}')
    path.write_text("\n[\n")
    with pytest.raises(SettingsError, match="line 2 is no record"):
        asyncio.run(anext(FileLog(path, "t").read()))


# -- versions ----------------------------------------------------------------------------------------


def test_the_history_says_who_was_champion_when_and_why(recorded: Run) -> None:
    history = recorded.asked("models", "history")
    reigns = history["reigns"]
    told = [(one["model"], one["version"], one["reason"], one["actor"]) for one in reigns]
    assert told == [
        ("tree", 1, "definition", None),
        ("linear", 2, "a try", "ada"),
        ("tree", 1, "a try", "ada"),
    ]
    assert [one["from_examples"] for one in reigns] == [0, 301, 601]
    assert all(before["to_offset"] == after["from_offset"] for before, after in pairwise(reigns))
    assert [one["decision_id"] for one in history["decisions"]] == [
        one.decision_id for one in recorded.run.decisions
    ]
    assert "ada" in recorded.ask("models", "history")


def test_a_version_has_all_constructor_arguments_and_its_metrics_at_promotion(recorded: Run) -> None:
    linear = recorded.asked("models", "show", "linear")
    assert linear["parameters"]["StandardScaler.with_std"] == "True"
    assert linear["parameters"]["LogisticRegression.l2"] == "0.0"
    assert (linear["class"], linear["state"]) == ("LogisticRegression", "challenger")
    assert set(linear["libraries"]) == {"headrace", "numpy", "python", "river"}
    assert linear["at_promotion"]["updates"] == 301
    assert set(linear["at_promotion"]["metrics"]) == {"Accuracy", "LogLoss", "ROCAUC", "Brier"}
    # An oracle for one of them: a fold to the promotion, and what its evaluation says.
    replay = replay_of(recorded)
    asyncio.run(replay.to_state(2, 301))
    assert linear["at_promotion"]["metrics"] == replay.learner.evaluation.model_scores()["linear"]


def test_versions_are_found_by_number_name_and_role(recorded: Run) -> None:
    for asked in ("1", "v1", "tree", "champion"):
        assert recorded.asked("models", "show", asked)["version"] == 1
    assert "has no version `forest`" in str(
        CliRunner()
        .invoke(app, ["models", "show", str(recorded.file), "forest", "--recording", str(recorded.folder)])
        .exception
    )


def test_a_fold_adds_what_every_version_has_learned_by_now(recorded: Run) -> None:
    listed = recorded.asked("models", "list", "--fold")
    run = recorded.run.learner
    assert [one["measured"][-1]["updates"] for one in listed] == [EVENTS, EVENTS]
    assert [one["measured"][-1]["metrics"] for one in listed] == [
        run.evaluation.model_scores()[name] for name in ("tree", "linear")
    ]
    assert [one["states"][-1]["digest"] for one in listed] == list(run.digests().values())
    assert "LogisticRegression" in recorded.ask("models", "list")


def test_a_recording_of_the_examples_alone_is_folded_for_its_decisions(recorded: Run, tmp_path: Path) -> None:
    (tmp_path / "examples.jsonl").symlink_to(recorded.folder / "examples.jsonl")
    history = asyncio.run(PipelineLogs(recorded.pipeline, Settings(), tmp_path).history())
    assert history.decisions == recorded.run.decisions


def test_what_differs_between_two_versions(recorded: Run) -> None:
    apart = recorded.asked("models", "diff", "tree", "linear")
    assert apart["parameters"]["max_depth"] == ["4", None]
    assert apart["parameters"]["LogisticRegression.l2"] == [None, "0.0"]
    assert apart["metrics_of_one_decision"] == recorded.run.decisions[-1].decision_id
    replay = replay_of(recorded)
    asyncio.run(replay.to_state(2, 601))
    scores = replay.learner.evaluation.model_scores()
    assert apart["metrics"]["Brier"] == [scores["tree"]["Brier"], scores["linear"]["Brier"]]
    assert recorded.asked("models", "diff", "2", "2")["parameters"] == {}


def decision(number: int, kind: Any, name: str, version: int, **fields: Any) -> Decision:
    return Decision(
        f"trips:0:{number}:0", kind, number, name, version, number, "why", "headrace", number, **fields
    )


def test_versions_that_no_file_names_come_from_decisions_and_pointers(recorded: Run) -> None:
    started = decision(5, "challenger.started", "linear-3", 3)
    entered = decision(7, "candidate.entered", "forest", 4)
    sick = decision(9, "model.quarantined", "forest", 4)
    refused = decision(10, "candidate.refused", "bayes", 0)
    promoted = decision(11, "model.promoted", "linear-3", 3, from_model="tree", from_version=1)
    pointer = ModelPointer("trips", "v3", "linear-3", 3, 9, "d1", "0.26.1", 12, definition="a.B(c=1)")
    told = [started, entered, started, sick, refused, promoted, promoted]
    history = history_of(recorded.pipeline, told, [pointer], definitions={("forest", 7): "x.Forest(n=3)"})
    assert history.decisions == [started, entered, sick, refused, promoted]
    assert {number: (one.name, one.state) for number, one in history.versions.items()} == {
        1: ("tree", "challenger"),
        2: ("linear", "challenger"),
        3: ("linear-3", "champion"),
        4: ("forest", "quarantined"),
    }
    assert history.versions[4].parameters == {"class": "x.Forest", "n": "3"}
    assert history.champion.parameters == {"class": "a.B", "c": "1"}
    assert (history.champion.started, history.versions[2].started) == (started, None)
    assert version_difference(history.versions[3], history.versions[4])["parameters"]["class"] == [
        "a.B",
        "x.Forest",
    ]


def test_a_version_that_takes_the_place_of_another_serves_where_it_served(recorded: Run) -> None:
    restored = decision(5, "version.restored", "tree", 3, evidence={"updates": 4, "digest": "d"})
    promoted = decision(7, "model.promoted", "linear", 2, from_model="tree", from_version=3)
    again = decision(9, "version.restored", "tree", 4)
    history = history_of(recorded.pipeline, [restored, promoted, again])
    assert [(one.version, one.reason) for one in history.reigns] == [
        (1, "definition"),
        (3, "why"),
        (2, "why"),
    ]
    assert [one.state for one in history.versions.values()] == [
        "replaced",
        "champion",
        "replaced",
        "challenger",
    ]
    assert history.versions[3].states[0][:3] == (4, "d", 6)
    assert history.version("tree").version == 4


# -- reproduction and export --------------------------------------------------------------------------


def test_recorded_states_are_reproduced(recorded: Run) -> None:
    for version in ("1", "2"):
        told = recorded.asked("models", "reproduce", version)
        assert told["reproduced"]
        assert told["states"]
        assert told["decisions_compared"] >= len(recorded.run.decisions) - 1
    assert "equal" in recorded.ask("models", "reproduce", "linear@301")


def test_a_changed_log_is_not_reproduced(recorded: Run, tmp_path: Path) -> None:
    for name in ("decisions", "models"):
        (tmp_path / f"{name}.jsonl").symlink_to(recorded.folder / f"{name}.jsonl")
    lines = (recorded.folder / "examples.jsonl").read_bytes().splitlines(keepends=True)
    changed = lines[100].replace(b'"distance":', b'"distance":1')
    assert changed != lines[100]
    (tmp_path / "examples.jsonl").write_bytes(b"".join([*lines[:100], changed, *lines[101:]]))
    told = asyncio.run(reproduce(PipelineLogs(recorded.pipeline, Settings(), tmp_path), "2"))
    assert not told["reproduced"]
    assert [row["equal"] for row in told["states"]] == [False]


def test_a_state_that_nobody_recorded_is_told_and_not_confirmed(recorded: Run) -> None:
    told = recorded.asked("models", "reproduce", "2@450", code=1)
    examples = 451
    assert (
        recorded.asked("models", "reproduce", f"2@{examples}", code=1)["states"][0]["folded"]
        == (recorded.digests[examples]["linear"])
    )
    assert "recorded states: 2@301" in told["notes"][0]


KEY = b"sixteen bytes or more"
KEYS = SigningKeys({"": KEY})


def test_an_export_loads_behind_its_signature_and_is_the_state(recorded: Run) -> None:
    data, meta = asyncio.run(exported(recorded.logs(), "linear@451", KEYS))
    racer = build_learner(recorded.pipeline).roster.racers["linear"]
    model, about = load(data, keys=KEYS, allowed=allow_for([racer.model]))
    assert digest(model) == meta["digest"] == about["digest"] == recorded.digests[451]["linear"]
    assert (about["name"], about["version"], about["updates"]) == ("linear", 2, 451)
    with pytest.raises(ModelError, match="signed with key"):
        load(data, keys=SigningKeys({"": b"another key of sixteen"}), allowed=allow_for([racer.model]))


def test_a_candidate_starts_from_an_export(recorded: Run, tmp_path: Path) -> None:
    path = tmp_path / "linear.model"
    model = recorded.pipeline.estimators["linear"]
    started = RaceField.of({"linear": Candidate(model, start=Artefact(str(path)))})
    factory = ModelFactory(recorded.pipeline, keys=KEYS)
    for plain in (False, True):
        data, meta = asyncio.run(exported(recorded.logs(), "linear@451", KEYS, plain=plain))
        path.write_bytes(data)
        imported, updates = factory.imported(started, "linear")
        assert updates == meta["updates"] == 451
        assert digest(bare(imported)) == digest(bare(load_trusted(data)))
        assert digest(imported) == recorded.digests[451]["linear"] or plain


def load_trusted(data: bytes) -> Any:
    about, size = struct.unpack_from(">IQ", data, 14)
    return pickle.loads(data[26 + about : 26 + about + size])[1]


def test_plain_python_with_river_loads_a_plain_export(recorded: Run, tmp_path: Path) -> None:
    """The lines that the documentation shows, in a process where nothing of ours can be imported."""
    path = tmp_path / "linear.model"
    recorded.ask("models", "export", "linear@451", "--out", str(path), "--plain")
    text = (CHECKOUT / "docs" / "operations.md").read_text()
    (lines,) = [block for block in text.split("```") if block.startswith("py\n") and "pickle" in block]
    script = tmp_path / "plain.py"
    guard = (
        "import sys\nfor name in ('topics', 'operators', 'engine', 'headrace'): sys.modules[name] = None\n"
    )
    script.write_text(
        guard + lines.removeprefix("py\n") + "print(model.predict_proba_one({'distance': 9.0}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{False: ")


# -- cards -------------------------------------------------------------------------------------------


def test_a_card_has_the_facts_in_both_forms(recorded: Run, tmp_path: Path) -> None:
    text = recorded.ask("models", "card", "linear")
    for fact in (
        "# trips, version 2: linear",
        "LogisticRegression.l2",
        "a try (ada)",
        "2@301",
        "mean_1h",
        "1h",
    ):
        assert fact in text, fact
    page = tmp_path / "card.html"
    recorded.ask("models", "card", "linear", "--out", str(page))
    shown = page.read_text()
    assert shown.startswith("<!doctype html>")
    for gone in ("<script", "http:", "https:", "<link", "<img", "@import", "url("):
        assert gone not in shown, gone
    for fact in ("version 2: linear", "a try (ada)", "2@301", "@media print"):
        assert fact in shown, fact


class Tags(HTMLParser):
    """The tags of a page, and that each is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        assert all(name in {"charset", "content", "lang", "name"} for name, _ in attrs)
        self.seen.add(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_what_people_write_is_no_markup_of_a_card(recorded: Run) -> None:
    evil = "<script>alert(1)</script>|`x`\n# y"
    decisions = [replace(one, reason=evil, actor=evil) for one in recorded.run.decisions]
    history = history_of(recorded.pipeline, decisions)
    sections = card(recorded.pipeline, history, history.champion)
    parser = Tags()
    parser.feed(card_html(sections))
    assert parser.open == []
    assert parser.seen <= {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "code", "table", "thead", "tbody",
        "tr", "th", "td",
    }  # fmt: skip
    rows = [line for line in card_markdown(sections).splitlines() if "alert" in line]
    assert rows
    assert all(line.startswith("| ") and not re.search(r"(?<!\\)[<`]|[^ \\]\|", line) for line in rows)
    assert (
        card_markdown([Section("t", (), ("a", "b"), (("_x_", "y_z"),))]).splitlines()[-1]
        == r"| \_x\_ | y_z |"
    )


# -- explanations ------------------------------------------------------------------------------------


def test_an_explanation_tells_the_whole_way_of_an_answer(recorded: Run) -> None:
    told = recorded.asked("explain", "trips:e450")
    served = told["served"]
    assert (served["model"], served["version"], served["served_by"]) == ("linear", 2, "champion")
    assert served["champion_since"]["reason"] == "a try"
    assert told["label"] == {
        "label": 450 % 13 > 6,
        "time": START + 450 * 60_000 + 30_000,
        "delay_ms": 30_000,
        "delay": "30s",
        "implicit": False,
        "example_offset": told["label"]["example_offset"],
    }
    windows = {one["name"]: (one["window"], one["key"]) for one in told["features"]}
    assert windows == {"distance": ("", ""), "mean_1h": ("1h", "city")}
    assert set(told["scores"]) == {"tree", "linear"}
    assert told["next_decision"]["type"] == "model.promoted"
    assert told["next_decision"]["offset"] == recorded.run.decisions[-1].offset
    # The contributions add up to the score that was served, in the state that served it.
    (score,) = told["contributions"]
    assert math.isclose(1 / (1 + math.exp(-score["total"])), told["answer"]["score"], rel_tol=1e-12)
    assert [part["name"] for part in score["features"]] == ["distance", "mean_1h"]
    # What the lesson changed, by plain River: the same examples, learned one after the other.
    model = compose.Pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression())
    rows = [json.loads(one.value or b"") for one in recorded.run.examples or []]
    rows = [row for row in rows if "features" in row]
    at = next(number for number, row in enumerate(rows) if row["event_id"] == "e450")
    for row in rows[:at]:
        model.learn_one(row["features"], row["label"])
    before = model.predict_proba_one(rows[at]["features"])[True]
    model.learn_one(rows[at]["features"], rows[at]["label"])
    after = model.predict_proba_one(rows[at]["features"])[True]
    lesson = told["learned"]["linear"]
    assert (lesson["before"], lesson["after"]) == (before, after)
    text = recorded.ask("explain", "e450")
    for fact in ("linear predictor", "since 2023-11-15", "a try", "before the lesson", "next decision"):
        assert fact in text, fact


def test_an_explanation_without_a_fold_has_the_records_alone(recorded: Run) -> None:
    told = recorded.asked("explain", "e450", "--no-fold")
    assert "contributions" not in told
    assert told["label"]["label"] == (450 % 13 > 6)


def test_a_prediction_that_is_not_there_is_refused(recorded: Run) -> None:
    done = CliRunner().invoke(
        app, ["explain", str(recorded.file), "e4500", "--recording", str(recorded.folder)]
    )
    assert isinstance(done.exception, SettingsError)
    assert "there is no prediction `e4500`" in str(done.exception)


def test_struct_of_an_artefact_is_what_the_document_unpacks(recorded: Run) -> None:
    data, meta = asyncio.run(exported(recorded.logs(), "linear@451", KEYS, plain=True))
    about, _ = struct.unpack_from(">IQ", data, 14)
    assert json.loads(data[26 : 26 + about])["digest"] == meta["digest"]
    assert hmac.compare_digest(data[-32:], hmac.digest(KEY, data[:-32], hashlib.sha256))
    assert digest(load_trusted(data)) == meta["digest"]
