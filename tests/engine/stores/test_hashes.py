"""The stores of static features: Redis and SQLite answer alike, all or nothing of a batch."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from engine.stores import hashes as module
from engine.stores.hashes import RedisHashes, SqliteHashes, store_features
from topics.errors import SettingsError


def test_more_keys_than_one_statement_takes(tmp_path: Path) -> None:
    path, count = tmp_path / "features.sqlite", 2 * module.KEYS_PER_QUERY_MAX + 1
    assert store_features(path, [(f"k{n}", "x", n) for n in range(count)]) == count

    async def play() -> None:
        found = await SqliteHashes(path).get({f"k{n}": ["x"] for n in range(count)})
        assert found == [[str(n)] for n in range(count)]

    asyncio.run(play())


def test_stored_features_are_replaced_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "features.sqlite"
    store_features(path, [("a", "x", 1), ("a", "y", 2)])
    store_features(path, [("a", "x", 3.5), ("a", "y", None)])
    stored = asyncio.run(SqliteHashes(path).get({"a": ["x", "y"]}))
    assert stored == [["3.5", None]]


def test_a_url_that_is_none_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match="redis"):
        RedisHashes("postgres://x")
