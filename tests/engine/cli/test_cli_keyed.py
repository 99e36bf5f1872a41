"""One race per key, as typed: a backtest's races, the size of one, whose race is meant, what is refused."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engine.cli.main import app
from topics.errors import DefinitionError, HeadraceError, SettingsError

PIPELINE = """
from msgspec import Struct
from river import linear_model, naive_bayes
from headrace import Labels, Pipeline, Topic, field

class Sale(Struct):
    event_id: str
    event_time: int
    store: str
    a: float

pipeline = Pipeline(
    name="sales",
    events=Topic("sales.seen", Sale, key="store"),
    labels=Labels("sales.known", wait="1d"),
    features={"a": field("a")},
    models={"bayes": naive_bayes.GaussianNB(), "linear": linear_model.LogisticRegression()},
    champion="bayes",
    PER
)
"""
SALES, STORES = 300, 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("sales"), random.Random(1)
    with (folder / "events.jsonl").open("w") as events, (folder / "labels.jsonl").open("w") as labels:
        for n in range(SALES):
            a, store = rng.uniform(-2.0, 2.0), f"s{n % STORES if n % 2 else 0}"
            about = {"event_id": str(n), "event_time": 1_000 * n, "store": store, "a": a}
            label = {"event_id": str(n), "label": a > 0, "label_time": 1_000 * n + 500}
            events.write(json.dumps(about) + "\n")
            labels.write(json.dumps(label) + "\n")
    (folder / "keyed.py").write_text(PIPELINE.replace("PER", 'per="store", per_max=3,'))
    (folder / "plain.py").write_text(PIPELINE.replace("PER", ""))
    return folder


def typed(folder: Path, *words: str) -> str:
    ran = CliRunner().invoke(app, [str(folder / word) if "." in word else word for word in words])
    if ran.exception is not None and not isinstance(ran.exception, SystemExit):
        raise ran.exception
    assert ran.exit_code == 0, ran.output
    return ran.output


BACKTEST = ("backtest", "keyed.py", "--events", "events.jsonl", "--labels", "labels.jsonl")


def test_a_backtest_tells_of_all_races_and_of_the_largest(folder: Path) -> None:
    report = json.loads(typed(folder, *BACKTEST, "--json"))
    assert report["examples"] == SALES
    assert report["races"]["begun"] == STORES // 2 + 1
    assert report["races"]["in_memory"] == 3
    assert report["races"]["evicted"] > report["races"]["begun"]
    assert report["by_key"][0]["key"] == "s0"
    assert sum(row["examples"] for row in report["by_key"]) == SALES
    assert report["served"]["Accuracy"] > 0.5
    told = typed(folder, *BACKTEST)
    assert "races, one per store: 16 begun, 3 in memory at the end" in told
    assert "s29" in told


def test_check_measures_a_race(folder: Path) -> None:
    races = json.loads(typed(folder, "check", "keyed.py", "--json"))["races"]
    assert (races["per"], races["per_max"], races["rows"]) == ("store", 3, 1_000)
    assert 10_000 < races["stored_bytes"] < races["memory_bytes"] < 100_000_000
    assert "in memory at most 3 in each partition (per_max)" in typed(folder, "check", "keyed.py")


def test_a_command_names_the_key_of_its_race(folder: Path) -> None:
    asked = ("models", "promote", "keyed.py", "linear", "--dry-run")
    assert json.loads(typed(folder, *asked, "--for", "s7"))["key"] == "s7"
    with pytest.raises(SettingsError, match="each `store` of `sales` has a race of its own"):
        typed(folder, *asked)
    with pytest.raises(SettingsError, match="one race for all keys"):
        typed(folder, "models", "promote", "plain.py", "linear", "--dry-run", "--for", "s7")
    assert "key" not in json.loads(typed(folder, "models", "pause", "keyed.py", "--dry-run"))
    with pytest.raises(SettingsError, match="`pause` is of all races, not of one"):
        typed(folder, "models", "pause", "keyed.py", "--dry-run", "--for", "s7")


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        ((*BACKTEST, "--save", "saved.d"), SettingsError),
        ((*BACKTEST, "--what-if", "champion=linear"), HeadraceError),
        ((*BACKTEST, "--record", "log.d"), SettingsError),
        (("freshness", "keyed.py", *BACKTEST[2:]), HeadraceError),
        (("freshness", "keyed.py"), DefinitionError),
        (("evaluate", "keyed.py", "--off-policy", "linear=1"), DefinitionError),
        (("models", "reproduce", "keyed.py", "1"), SettingsError),
        (("models", "export", "keyed.py", "1", "--out", "model.bin"), SettingsError),
        (("check", "keyed.py", "--events", "events.jsonl", "--labels", "labels.jsonl"), DefinitionError),
    ],
)
def test_what_folds_one_log_for_one_race_is_refused(
    folder: Path, words: tuple[str, ...], refused: type[HeadraceError]
) -> None:
    with pytest.raises(refused, match=r"not offered|race of its own") as caught:
        typed(folder, *words)
    assert caught.value.hint, "it does not say what works instead"
