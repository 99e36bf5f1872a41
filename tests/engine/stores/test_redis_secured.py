"""A Redis with TLS, certificates of its clients and the user of the manual, for all that is kept."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from brokers.redis import secured_redis
from paths import CHECKOUT
from redis_places import redis_store

from engine.stores.artefacts import RedisArtefacts
from engine.stores.checkpoints import Checkpoint
from engine.stores.hashes import RedisHashes
from topics.errors import StoreUnavailableError

SECRET = "p@ss:w/rd%"
RULE = re.search(
    r"^ACL SETUSER (headrace on .*?)\n```",
    (CHECKOUT / "docs" / "operations.md").read_text(),
    re.MULTILINE | re.DOTALL,
)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, str]]:
    """Address, query and another authority's certificate."""
    assert RULE is not None
    folder = tmp_path_factory.mktemp("tls")
    with secured_redis(folder, " ".join(RULE[1].replace("…", SECRET).split())) as (place, authority, query):
        authority.identity("another")
        yield place, query, str(folder)


def url_of(place: str, query: str, *, password: str = SECRET) -> str:
    return f"rediss://headrace:{quote(password, safe='')}@{place}?{query}"


def test_everything_that_is_kept_is_kept_over_tls(secured: tuple[str, str, str], tmp_path: Path) -> None:
    place, query, _ = secured
    url = url_of(place, query)

    async def scene() -> None:
        store = redis_store(url, "p", directory=tmp_path, apart=("w/",))
        assert await store.fence() == 1
        await store.save(1, b"1", {"a": b"1", "w/a": b"2"})
        await store.save(1, b"2", {"a": b"2"})
        assert await store.load() == Checkpoint(1, b"2", {"a": b"2"})
        assert store.stored("w/").get(["a"]) == {"a": b"2"}
        assert store.place == f"rediss://{place.replace('/0', '')}/0 headrace:{{p/scorer/0}}:*"
        await store.close()
        hashes = RedisHashes(url)
        await hashes.put([("headrace:static", "risk", 0.5)])
        assert await hashes.whole("headrace:static") == {"risk": "0.5"}
        await hashes.close()

    asyncio.run(scene())
    artefacts = RedisArtefacts(url, "p", deadline_s=5.0)
    artefacts.put("ab" * 16, b"model")
    assert artefacts.names() == ["ab" * 16]
    artefacts.close()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda place, query: url_of(place, query, password="guessed"), "invalid username-password"),
        (lambda place, query: url_of(place, query.split("&")[0]), "."),
        (lambda place, query: url_of(place, query.partition("&")[2]), "certificate verify failed"),
        (lambda place, query: url_of(place, query).replace("rediss://", "redis://").partition("?")[0], "."),
    ],
    ids=["password", "no certificate of the client", "no authority", "no TLS"],
)  # fmt: skip
def test_who_may_not_come_in_is_told_why_without_secrets(
    secured: tuple[str, str, str], tmp_path: Path, change: object, says: str
) -> None:
    place, query, _ = secured

    async def scene() -> None:
        store = redis_store(change(place, query), "p", directory=tmp_path, deadline_s=2.0)  # type: ignore[operator]
        try:
            with pytest.raises(StoreUnavailableError, match=says) as caught:
                await store.fence()
        finally:
            await store.close()
        assert place.partition("/")[0] in str(caught.value)
        for secret in (SECRET, quote(SECRET, safe=""), "guessed"):
            assert secret not in str(caught.value)

    asyncio.run(scene())
