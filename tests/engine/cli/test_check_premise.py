"""`headrace check` with rows: fixed blocks of evidence that do not stand alone are told, with the fix."""

import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from engine.cli.main import app

PIPELINE = """
import msgspec
from river import base
from engine import Labels, Pipeline, Promotion, Topic
from operators import field


class Event(msgspec.Struct):
    event_id: str
    event_time: int
    key: str
    x: float
    label: bool


class Constant(base.Classifier):
    def __init__(self, chance: float) -> None:
        self.chance = chance

    def learn_one(self, x, y):
        pass

    def predict_proba_one(self, x):
        return {True: self.chance, False: 1 - self.chance}


pipeline = Pipeline(
    name="storms",
    events=Topic("storms.events", Event, key="key"),
    labels=Labels(field="label"),
    features={"x": field("x")},
    models={"no": Constant(0.3), "yes": Constant(0.7)},
    champion="no",
    promotion=Promotion(
        evidence_block=BLOCK, min_examples=1_000_000, opening_error=0, fresh_challengers_max=0
    ),
)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3,000 rows in storms of 100: a file for each size of blocks, and a recording of the first."""
    folder = tmp_path_factory.mktemp("storms")
    rng = random.Random(2)
    storms = [rng.random() for _ in range(30)]
    rows = [
        {"event_id": f"e{n}", "event_time": n, "key": "k", "x": 0.0, "label": rng.random() < storms[n // 100]}
        for n in range(3_000)
    ]
    (folder / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "labels-elsewhere.jsonl").write_text('{"event_id": "e1", "label_time": 1, "label": "yes"}\n')
    for block in ("10", "250", "500", "3_000", '"auto"'):
        name = block.strip('"') + ".py"
        (folder / name).write_text(PIPELINE.replace("BLOCK", block))
    return folder


def check(folder: Path, name: str, *options: object) -> Result:
    return CliRunner().invoke(app, ["check", str(folder / name), *map(str, options)])


def premise(folder: Path, name: str, *options: object) -> dict[str, object]:
    done = check(folder, name, "--json", *options)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["premise"]
    assert isinstance(found, dict)
    return found


def test_blocks_shorter_than_storms_are_a_warning_in_the_words_of_a_backtest(folder: Path) -> None:
    told = check(folder, "10.py", "--events", folder / "events.jsonl")
    assert told.exit_code == 0
    (found,) = premise(folder, "10.py", "--events", folder / "events.jsonl")["correlated"]  # type: ignore[misc]
    warning = (
        f"warning: losses of yes and no are correlated from block to block ({found['correlation']:.2f} over "
        f"300 blocks), so that swaps come more often than promised fix: Promotion(evidence_block="
        f"{found['evidence_block']!r}, ...)"
    )
    files = ("--events", str(folder / "events.jsonl"), "--record", str(folder / "recording"))
    raced = CliRunner().invoke(app, ["backtest", str(folder / "10.py"), *files])
    for done in (told, raced):
        assert warning in " ".join(done.stdout.split())
    assert premise(folder, "10.py", "--recording", folder / "recording")["correlated"] == [found]


def test_the_fix_is_one(folder: Path) -> None:
    (found,) = premise(folder, "10.py", "--events", folder / "events.jsonl")["correlated"]  # type: ignore[misc]
    (folder / "fixed.py").write_text(PIPELINE.replace("BLOCK", repr(found["evidence_block"])))
    fixed = premise(folder, "fixed.py", "--events", folder / "events.jsonl")
    assert (fixed["evidence_block"], fixed["correlated"]) == (found["evidence_block"], [])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("auto.py", "bets answer to it"),
        ("250.py", "12 blocks); above 0.87 it would tell of blocks that are too short"),
        ("500.py", "6 blocks); too few to tell of blocks that are too short"),
        ("3_000.py", "no two models were compared over two blocks: whether blocks stand alone is unknown"),
    ],
)
def test_it_says_too_what_is_well_and_what_nobody_can_tell(folder: Path, name: str, said: str) -> None:
    done = check(folder, name, "--events", folder / "events.jsonl")
    assert done.exit_code == 0
    assert "warning:" not in done.stdout
    assert said in " ".join(done.stdout.split())


def test_rows_that_come_to_nothing_are_no_answer(folder: Path) -> None:
    """Labels that do not decode, events that are missing: exit codes of a backtest."""
    assert "premise" not in json.loads(check(folder, "10.py", "--json").stdout)
    done = check(folder, "10.py", "--events", folder / "labels-elsewhere.jsonl")
    assert done.exit_code == 1
    assert "error: the run failed" in done.output
    refused = check(folder, "10.py", "--labels", folder / "labels-elsewhere.jsonl")
    assert "there are no events" in str(refused.exception)
