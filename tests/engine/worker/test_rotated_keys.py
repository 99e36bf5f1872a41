"""Signing keys are replaced under a learner that goes on from its checkpoints, on both stores."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_rerun import assert_same, race, raced, stream

from engine.machines.learner import Learner
from engine.metrics import Metrics
from engine.settings import Settings
from engine.stores.artefacts import resign
from engine.stores.places import artefact_store, checkpoint_store
from engine.worker.assembly import KEY_FILE, build_learner, signing_keys
from engine.worker.follower import Follower
from operators.models.signing import SigningKeys, resigned
from operators.race import good_versions
from topics.errors import ModelError, SettingsError
from topics.messages import Record

MAY, NOVEMBER, STRANGER = ("0123456789abcdef" + month for month in ("may", "november", "of nobody"))
LOG: Sequence[Record] = tuple(raced(race(), *stream(400)).run.examples or ())


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Return the settings of one store."""
    if request.param == "sqlite":
        return {"state_dir": tmp_path}
    base = request.getfixturevalue("redis_url").rsplit("/", 1)[0]
    return {"state_dir": tmp_path, "store_url": f"{base}/0"}


class Sent:
    """A sink that has written the whole log."""

    def last_offset(self, _: object) -> int:
        return len(LOG)


def lead(settings: Settings, pipeline: Any, until: int) -> Learner:
    """Restore, fold the log up to a record, save; return the learner."""

    async def turn() -> Learner:
        follower = Follower(pipeline, settings, Metrics(pipeline), Sent())  # type: ignore[arg-type]
        try:
            await follower.lead([0])
            while follower.learner.reading < until:
                follower.learner.fold([LOG[follower.learner.reading]])
            await follower.save(follower.capture())
            return follower.learner
        finally:
            await follower.close()

    return asyncio.run(turn())


async def _stored(settings: Settings, name: str) -> dict[str, bytes]:
    store = checkpoint_store(settings, name, "learner", 0)
    try:
        await store.fence()
        checkpoint = await store.load()
        assert checkpoint is not None
        return dict(checkpoint.entries)
    finally:
        await store.close()


def test_a_key_is_replaced_step_by_step(place: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(good_versions, "GOOD_EVERY", 50)
    pipeline = replace(race(), name=f"rotated-{uuid.uuid4().hex[:8]}")
    expected = build_learner(race(), keys=SigningKeys({"": b"k" * 32}))
    for record in LOG[:300]:
        expected.fold([record])

    one = Settings(**place, signing_key=MAY)
    both = Settings(**place, signing_keys={"2026-05": MAY, "2026-11": NOVEMBER})
    turned = Settings(**place, signing_keys={"2026-11": NOVEMBER, "2026-05": MAY})
    new = Settings(**place, signing_keys={"2026-11": NOVEMBER})
    lead(one, pipeline, 100)
    artefacts = artefact_store(one, pipeline.name)
    entries = asyncio.run(_stored(one, pipeline.name))
    model = next(data for data in entries.values() if data.startswith(b"HDRC"))
    artefacts.put("ab" * 16, model)
    lead(both, pipeline, 150)
    with pytest.raises(ModelError, match=r"signed with key .*, ours: 2026-11") as refused:
        lead(new, pipeline, 160)
    assert "models resign" in refused.value.hint

    lead(turned, pipeline, 200)
    assert resign(artefacts, signing_keys(turned)) == (1, 1)
    assert resign(artefacts, signing_keys(turned)) == (1, 0)
    keys = signing_keys(new)
    stored = asyncio.run(_stored(new, pipeline.name))
    assert {name for name in stored if name.startswith("good/")}
    for data in (*stored.values(), artefacts.get("ab" * 16)):
        assert resigned(data, keys) is data, "nothing is left that the old key signed"
    assert_same(lead(new, pipeline, 300), expected)
    artefacts.close()
    with pytest.raises(ModelError, match="ours: stranger"):
        lead(Settings(**place, signing_keys={"stranger": STRANGER}), pipeline, 300)


def test_workers_that_start_at_once_in_one_directory_have_one_key(tmp_path: Path) -> None:
    together = threading.Barrier(4)

    def started(folder: Path) -> bytes:
        together.wait()
        signing_keys(Settings(state_dir=folder))  # raises where it reads half a key
        return (folder / KEY_FILE).read_bytes()

    with ThreadPoolExecutor(4) as workers:
        for number in range(50):
            folder = tmp_path / str(number)
            assert len(set(workers.map(started, [folder] * 4))) == 1
            assert [file.name for file in folder.iterdir()] == [KEY_FILE], "nothing is left behind"


def test_two_places_for_keys_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="both set"):
        Settings(state_dir=tmp_path, signing_key=MAY, signing_keys={"a": NOVEMBER})  # type: ignore[arg-type,dict-item]


@pytest.mark.parametrize("key", ["short", "a" * 64, "secret" * 6])
def test_keys_that_can_be_guessed_are_refused(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.settings import load_settings

    for name, value in {
        "HEADRACE_SIGNING_KEY": key,
        "HEADRACE_SIGNING_KEYS": json.dumps({"a": key}),
        "HEADRACE_COMMAND_KEYS": json.dumps({"a": key}),
        "HEADRACE_WEB__TOKEN": key,
    }.items():
        with monkeypatch.context() as given:
            given.setenv(name, value)
            with pytest.raises(SettingsError, match="guessed") as caught:
                load_settings()
            assert key not in str(caught.value)
