"""The settings name the stores, and no secret of theirs is ever shown."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from engine.settings import Settings, load_settings
from engine.stores.artefacts import ArtefactFiles, RedisArtefacts
from engine.stores.hashes import RedisHashes, SqliteHashes, static_store
from engine.stores.places import artefact_store, checkpoint_store
from engine.stores.redis_checkpoints import RedisCheckpoints
from engine.stores.sqlite_checkpoints import SqliteCheckpoints
from engine.worker.assembly import known_keys, signing_keys
from topics.errors import SettingsError

URL = "rediss://worker:hunter2@redis.example:6380/1"


def test_without_a_shared_store_everything_is_in_the_state_directory(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    assert isinstance(checkpoint_store(settings, "p", "scorer", 0), SqliteCheckpoints)
    assert isinstance(artefact_store(settings, "p"), ArtefactFiles)
    assert isinstance(static_store(settings), SqliteHashes)
    assert settings.features_url is None


def test_one_setting_moves_everything_and_shows_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_STORE_URL", URL)
    settings = load_settings(state_dir=tmp_path)
    store = checkpoint_store(settings, "p", "scorer", 0)
    assert isinstance(store, RedisCheckpoints)
    assert store.place == "rediss://redis.example:6380/1 headrace:{p/scorer/0}:*"
    assert isinstance(artefact_store(settings, "p"), RedisArtefacts)
    hashes = static_store(settings)
    assert isinstance(hashes, RedisHashes)
    asyncio.run(hashes.close())
    assert "hunter2" not in repr(settings) + str(settings.model_dump()) + repr(store)


def test_features_may_be_in_a_redis_of_their_own(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, store_url=URL, redis_url="redis://features.example")  # type: ignore[arg-type]
    assert settings.features_url is settings.redis_url


def test_a_shared_store_needs_a_key_that_all_workers_have(tmp_path: Path) -> None:
    shared = Settings(state_dir=tmp_path, store_url=URL)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="signing key that all workers have") as caught:
        signing_keys(shared)
    assert "hunter2" not in str(caught.value)
    assert known_keys(shared) is None
    assert signing_keys(shared.model_copy(update={"store_url": None}))
