"""`headrace state`: what is told of stored checkpoints, and copies that go into any store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from running import fresh_name, write_pipeline
from typer.testing import CliRunner

from engine.cli.main import app
from engine.definition.file import load_pipeline
from engine.definition.pipeline import Pipeline
from engine.machines.scorer import Scorer
from engine.offline.backtest import LocalRun
from engine.settings import Settings
from engine.state.contents import all_entries
from engine.stores.places import artefact_store, checkpoint_store
from engine.worker.header import LearnerMeta, ScorerMeta, header_of
from engine.worker.model_factory import ModelFactory
from engine.worker.owned_partitions import APART
from operators.models.signing import SigningKeys
from topics.codec import encode_json
from topics.errors import CheckpointError, SettingsError
from topics.messages import Record

SOURCE = """
    from msgspec import Struct
    from river import linear_model

    from engine import Labels, Pipeline, Topic
    from operators import by, field, label


    class Payment(Struct):
        event_id: str
        event_time: int
        card: str
        shop: str
        amount: float


    pipeline = Pipeline(
        name="NAME",
        events=Topic("NAME.payments", Payment, key="card"),
        labels=Labels("NAME.frauds", wait="1d"),
        features={
            "amount": field("amount"),
            "n": by("card").count("1h"),
            "at_shop": by("card", "shop").sum("amount", "1h"),
            "ratio": field("amount") / by("card").mean("amount", "1h"),
            "shop_share": by("shop").mean(label, "1h").default(0.0),
        },
        models={"lr": linear_model.LogisticRegression()},
    )
"""
START_MS = 1_700_000_000_000
EVENTS = 60
ARTEFACT = "ab" * 16
KEY = "sixteen bytes or more"
DEAD = "127.0.0.1:1"


class Kept:
    """A pipeline whose scorer and learner have answered and learned, and are stored."""

    def __init__(self, folder: Path, settings: Settings, source: str = SOURCE) -> None:
        self.settings = settings
        self.file = write_pipeline(folder, source, name=fresh_name("kept"))
        self.pipeline: Pipeline = load_pipeline(self.file)
        self.run = LocalRun(
            self.pipeline, source=ModelFactory(self.pipeline, keys=SigningKeys({"": KEY.encode()}))
        )
        self.scorer: Scorer = self.run.scorer
        self.scorer.intake.offer_events(map(self.event, range(EVENTS)))
        self.scorer.intake.offer_labels(map(self.truth, range(0, EVENTS, 3)))
        while self.run.advance() is not None:
            pass
        asyncio.run(self._save())

    def event(self, number: int) -> Record:
        row = {"event_id": f"e{number}", "event_time": START_MS + number * 1_000, "card": f"card{number % 4}"}
        value = encode_json({**row, "shop": f"shop{number % 3}", "amount": float(number)})
        return Record(self.pipeline.events.name, 0, number, None, row["card"].encode(), value)  # type: ignore[union-attr, attr-defined]

    def truth(self, number: int) -> Record:
        row = {
            "event_id": f"e{number}",
            "label_time": START_MS + number * 1_000 + 500,
            "label": number % 2 == 0,
        }
        return Record(
            self.pipeline.labels.topic or "", 0, number, None, f"card{number % 4}".encode(), encode_json(row)
        )

    async def _save(self) -> None:
        header = header_of(self.pipeline, 1)
        metas: dict[str, Any] = {
            "scorer": ScorerMeta(self.pipeline.scorer_definition(), (), {}, header),
            "learner": LearnerMeta(self.pipeline.learner_definition(), header),
        }
        parts: dict[str, Any] = {"scorer": self.scorer, "learner": self.run.learner}
        for role, part in parts.items():
            store = checkpoint_store(self.settings, self.pipeline.name, role, 0, apart=APART)  # type: ignore[arg-type]
            claim = await store.fence()
            await store.save(claim, msgspec.json.encode(metas[role]), {"first": b"1"})
            await store.save(claim, msgspec.json.encode(metas[role]), part.snapshot() | {"first": None})
            await store.close()
        artefacts = artefact_store(self.settings, self.pipeline.name)
        artefacts.put(ARTEFACT, b"a model")
        artefacts.close()


def contents(settings: Settings, pipeline: Pipeline, role: Any = "scorer") -> tuple[int, dict[str, bytes]]:
    """Return the claim and all entries of a store."""

    async def read() -> tuple[int, dict[str, bytes]]:
        store = checkpoint_store(settings, pipeline.name, role, 0, apart=APART)
        claim = (await store.look()).claim
        _, entries = await all_entries(store)
        await store.close()
        return claim, entries

    return asyncio.run(read())


def headrace(settings: Settings, *arguments: str) -> tuple[int, Any, BaseException | None]:
    """Run a command with these settings; return exit code, JSON and error."""
    variables = {"HEADRACE_STATE_DIR": str(settings.state_dir), "HEADRACE_SIGNING_KEY": KEY}
    variables |= {
        "HEADRACE_KAFKA__BOOTSTRAP_SERVERS": DEAD,
        "HEADRACE_KAFKA__CONNECT_DEADLINE_MS": "1000",
    }
    if settings.store_url is not None:
        variables["HEADRACE_STORE_URL"] = settings.store_url.get_secret_value()
    done = CliRunner().invoke(app, ["state", *arguments, "--json"], env=variables)
    told = json.loads(done.stdout) if done.stdout.startswith("{") else done.output
    return done.exit_code, told, done.exception


Places = Callable[[str], Settings]


@pytest.fixture
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Places:
    """Return what names a store of a kind, with a directory of its own."""

    def made(kind: str) -> Settings:
        url = request.getfixturevalue("redis_url") if kind == "redis" else None
        directory = tmp_path / f"{kind}-{fresh_name('at')}"
        return Settings(state_dir=directory, store_url=url, signing_key=KEY)  # type: ignore[arg-type]

    return made


STORES = ["sqlite", "redis"]


@pytest.mark.parametrize("kind", STORES)
def test_what_is_kept_is_told_by_part_and_by_key(place: Places, tmp_path: Path, kind: str) -> None:
    kept = Kept(tmp_path, place(kind))
    code, told, error = headrace(kept.settings, "inspect", str(kept.file))
    assert code == 0, error
    scorer, learner = told["checkpoints"]
    assert [scorer["name"], learner["name"]] == ["scorer-0", "learner-0"]
    assert scorer["header"]["partitions"] == 1
    assert scorer["position"]["events"] == EVENTS
    state = kept.scorer.snapshot()
    assert sum(part["entries"] for part in scorer["parts"].values()) == len(state)
    assert sum(part["bytes"] for part in scorer["parts"].values()) == sum(
        len(name.encode()) + len(value) for name, value in state.items()
    )
    assert scorer["parts"]["join/w"]["entries"] == EVENTS
    code, told, error = headrace(kept.settings, "inspect", "card1", str(kept.file))
    assert code == 0, error
    windows = {(*row["by"], row["key"]): row["values"] for row in told["kept"] if row["what"] == "windows"}
    mine = [number for number in range(EVENTS) if number % 4 == 1]
    assert windows.pop(("card", "card1"))["n"] == len(mine)
    assert {key[2]: values["at_shop"] for key, values in windows.items()} == {
        f"5:card1,shop{shop}": sum(float(number) for number in mine if number % 3 == shop)
        for shop in range(3)
    }
    answers = [row["values"] for row in told["kept"] if row["what"].startswith("answer")]
    assert {answer["event_id"] for answer in answers} == {f"e{number}" for number in mine}
    assert sum(answer["label"] is not None for answer in answers) == len([n for n in mine if n % 3 == 0])
    assert headrace(kept.settings, "inspect", "nobody", str(kept.file))[1]["kept"] == []


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("target", STORES)
def test_a_snapshot_goes_into_any_store_and_says_the_same(
    place: Places, tmp_path: Path, kind: str, target: str
) -> None:
    """Into an empty one, over an older one, over a newer one only if told; what was there before is gone."""
    kept, other = Kept(tmp_path, place(kind)), place(target)
    folder, names = tmp_path / "snapshot", (str(tmp_path / "snapshot"), str(kept.file))
    code, told, error = headrace(kept.settings, "snapshot", *names)
    assert code == 0, error
    assert {one["path"] for one in told["files"]} == {
        str(path.relative_to(folder)) for path in (folder / kept.pipeline.name).rglob("*") if path.is_file()
    }
    for claims in (0, 3):
        code, told, error = headrace(other, "restore", *names, *(["--over-newer"] if claims else []))
        assert code == 0, error
        claim, entries = contents(other, kept.pipeline)
        assert entries == kept.scorer.snapshot()
        assert contents(other, kept.pipeline, "learner")[1] == kept.run.learner.snapshot()
        assert claim > 1
        artefacts = artefact_store(other, kept.pipeline.name)
        assert artefacts.names() == [ARTEFACT]
        artefacts.close()
        asyncio.run(spoilt(other, kept.pipeline, claims=3))
        code, _, refused = headrace(other, "restore", *names)
        assert code == 1
        assert isinstance(refused, CheckpointError)
        assert "has handed out claim" in str(refused)
        assert contents(other, kept.pipeline)[1]["spoilt"] == b"x"
    assert headrace(other, "verify", str(kept.file))[0] == 0


async def spoilt(settings: Settings, pipeline: Pipeline, *, claims: int) -> None:
    """Let owners come and go, the last of whom leaves something of its own."""
    store = checkpoint_store(settings, pipeline.name, "scorer", 0, apart=APART)
    for _ in range(claims):
        claim = await store.fence()
        found = await store.load()
        await store.save(claim, found.meta if found is not None else b"", {"spoilt": b"x"})
    await store.close()


def test_what_is_no_whole_snapshot_is_refused_before_anything_is_written(
    place: Places, tmp_path: Path
) -> None:
    kept, other = Kept(tmp_path, place("sqlite")), place("sqlite")
    names = (str(tmp_path / "snapshot"), str(kept.file))
    assert headrace(kept.settings, "snapshot", *names)[0] == 0
    code, _, error = headrace(kept.settings, "snapshot", *names)
    assert (code, type(error)) == (1, SettingsError)
    manifest = tmp_path / "snapshot" / "manifest.json"
    scorer = tmp_path / "snapshot" / kept.pipeline.name / "scorer-0.sqlite"
    for path, found in ((manifest, b'"partitions": 1'), (scorer, b"e7")):
        before = path.read_bytes()
        assert found in before
        path.write_bytes(before.replace(found, bytes([*found[:-1], found[-1] ^ 1])))
        code, _, error = headrace(other, "restore", *names)
        assert (code, isinstance(error, CheckpointError)) == (1, True)
        assert str(path) in str(error)
        path.write_bytes(before)
    assert not list(other.state_dir.rglob("*.sqlite"))
    assert headrace(other, "restore", *names)[0] == 0


@pytest.mark.parametrize("kind", STORES)
def test_verify_names_what_would_not_be_taken(place: Places, tmp_path: Path, kind: str) -> None:
    kept = Kept(tmp_path, place(kind))
    code, told, error = headrace(kept.settings, "verify", str(kept.file))
    assert code == 0, error
    assert told["ok"]
    assert all(row["logs"].startswith(("unchecked: ", "not asked")) for row in told["checkpoints"])
    asyncio.run(undecodable(kept.settings, kept.pipeline))
    code, told, _ = headrace(kept.settings, "verify", str(kept.file))
    assert (code, told["ok"]) == (1, False)
    (problem,) = [row for row in told["checkpoints"] if row.get("problem")]
    assert problem["name"] == "scorer-0"
    assert "feature state cannot be read" in problem["problem"]


async def undecodable(settings: Settings, pipeline: Pipeline) -> None:
    """Save what every seal and checksum holds for, and no operator can read."""
    store = checkpoint_store(settings, pipeline.name, "scorer", 0, apart=APART)
    claim = await store.fence()
    found = await store.load()
    assert found is not None
    await store.save(claim, found.meta, {"features/meta": b"?"})
    await store.close()


def test_verify_names_the_file_that_is_damaged(place: Places, tmp_path: Path) -> None:
    kept = Kept(tmp_path, place("sqlite"))
    path = kept.settings.state_dir / kept.pipeline.name / "learner-0.sqlite"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    code, told, _ = headrace(kept.settings, "verify", str(kept.file))
    assert code == 1
    (problem,) = [row for row in told["checkpoints"] if row.get("problem")]
    assert problem["name"] == "learner-0"
    assert str(path) in problem["problem"]
    assert "copies-" not in problem["problem"]
    # What a worker would go back to is told too.
    assert [row["name"] for row in told["checkpoints"] if "before" in row["name"]] == [
        "scorer-0 (the one before)",
        "learner-0 (the one before)",
    ]


def test_a_store_without_checkpoints_is_told(place: Places, tmp_path: Path) -> None:
    kept = Kept(tmp_path, place("sqlite"))
    code, _, error = headrace(place("sqlite"), "verify", str(kept.file))
    assert (code, type(error)) == (1, SettingsError)
    assert "holds no checkpoint of" in str(error)
