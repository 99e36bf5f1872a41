"""A Redis that holds what must not be lost: every call has a deadline, every failure says where.

Lives here: the connection to the Redis of `store_url`, a single server or a Redis Cluster; its name without
its secrets; scripts.  Never here: keys, what scripts do (`redis_checkpoints.py`), features beside the
stream (`hashes.py`), which may be missing and so have other deadlines.

Strategy.  All is done by scripts, whose keys lie in one slot of a cluster.  A call is made once: whoever
asks knows whether it may be repeated.  A failure means that the store cannot be used now, whatever the
reason, for each may be mended while a worker waits: a server that is away, hangs, loads, is full or is a
replica, a password that was changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry as BlockingRetry

from engine.stores.hashes import give_up
from topics.errors import CheckpointError, SettingsError, StoreUnavailableError

__all__ = ["PREFIX", "BlockingConnection", "StoreConnection", "place_of"]

PREFIX = "headrace"
"""All keys begin with it."""
KEYS_PER_SCAN = 1_000
"""Keys that Redis looks at in one step, about a millisecond."""
SCHEMES = ("redis", "rediss")


def place_of(url: str) -> str:
    """Return a Redis' address without user and password.

    Raises SettingsError for what is no address of a Redis; nothing of `url` is in its text.

    >>> place_of("rediss://worker:secret@redis.example:6380/2?ssl_ca_certs=ca.pem")
    'rediss://redis.example:6380/2'
    """
    try:
        parts = urlsplit(url)
        port = parts.port or 6379
    except ValueError:  # its text would show a part of a password that is not percent-encoded
        parts, port = urlsplit(""), 0
    if parts.scheme not in SCHEMES or not parts.hostname:
        raise SettingsError(
            "store_url is no address of a Redis",
            hint="redis://user:password@host:6379/0, percent-encoded; rediss:// for TLS",
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port}/{parts.path.strip('/') or 0}"


class StoreConnection:
    """A connection to a Redis or a Redis Cluster; it connects when it is first used."""

    def __init__(self, url: str, *, deadline_s: float) -> None:
        """`deadline_s` is for one call.  Raises SettingsError if `url` is none of a Redis."""
        self.place = place_of(url)
        self._url = url
        self._deadline_s = deadline_s
        self._client: Any = None

    async def script(self, text: str, keys: Sequence[str], arguments: Sequence[bytes | str | int]) -> Any:
        """Run a script and return its answer.

        Raises StoreUnavailableError where that cannot be done now, and then it may have been done all the
        same; CheckpointError where a key holds something that is not ours.
        """
        return await self._within(self._call("EVAL", text, len(keys), *keys, *arguments))

    async def fields(self, key: str, names: Sequence[str]) -> list[bytes | None]:
        """Return fields of a hash, None for those that are not there.  Raises as `script` does."""
        found: list[bytes | None] = await self._within(self._call("HMGET", key, *names))
        return found

    async def _call(self, *command: Any) -> Any:
        if self._client is None:
            self._client = await self._connect()
        return await self._client.execute_command(*command)

    async def _connect(self) -> Any:
        """Return a client for what is there: a cluster says so."""
        options: dict[str, Any] = {
            "socket_connect_timeout": self._deadline_s,
            "socket_timeout": self._deadline_s,
            "retry": Retry(NoBackoff(), 0),
        }
        try:
            client = Redis.from_url(self._url, **options)
        except (ValueError, TypeError):
            raise _no_option() from None
        try:
            told = await client.execute_command("INFO", "cluster")  # type: ignore[no-untyped-call]
        except ResponseError:  # not permitted: a user of a cluster needs +info
            return client
        except TypeError:
            raise _no_option() from None
        except BaseException:
            await client.aclose()
            raise
        if not int(told.get("cluster_enabled", 0)):
            return client
        await client.aclose()
        return RedisCluster.from_url(self._url, **options)

    async def _within(self, call: Any) -> Any:
        """Wait for a call no longer than its deadline."""
        task = asyncio.create_task(call)
        try:
            done, _ = await asyncio.wait({task}, timeout=self._deadline_s)
        except asyncio.CancelledError:
            await give_up(task)
            raise
        if not done:
            await give_up(task)
            raise _unavailable(self.place, f"no answer within {self._deadline_s:g} s")
        try:
            return task.result()
        except (RedisError, OSError) as error:
            raise _told(self.place, error) from None

    async def close(self) -> None:
        """Close all connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


class BlockingConnection:
    """A connection whose caller waits for each answer, up to a deadline: for what is asked rarely."""

    def __init__(self, url: str, *, deadline_s: float) -> None:
        """`deadline_s` is for one call.  Raises SettingsError if `url` is none of a Redis."""
        self.place = place_of(url)
        self._url = url
        self._options = {
            "socket_connect_timeout": deadline_s,
            "socket_timeout": deadline_s,
            "retry": BlockingRetry(NoBackoff(), 0),
        }
        self._client: Any = None

    def call(self, *command: Any) -> Any:
        """Send a command about one key and return its answer.  Raises as `StoreConnection.script` does."""
        try:
            if self._client is None:
                self._client = self._connect()
            return self._client.execute_command(*command)
        except (RedisError, OSError) as error:
            raise _told(self.place, error) from None

    def keys_like(self, pattern: str) -> list[str]:
        """Return the keys that match a pattern, of all there are.  Raises as `call`."""
        try:
            if self._client is None:
                self._client = self._connect()
            return [key.decode() for key in self._client.scan_iter(match=pattern, count=KEYS_PER_SCAN)]
        except (RedisError, OSError) as error:
            raise _told(self.place, error) from None

    def close(self) -> None:
        """Close all connections."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _connect(self) -> Any:
        try:
            client = redis.Redis.from_url(self._url, **self._options)
        except (ValueError, TypeError):
            raise _no_option() from None
        try:
            told = client.execute_command("INFO", "cluster")  # type: ignore[no-untyped-call]
        except ResponseError:
            return client
        except TypeError:
            raise _no_option() from None
        if not int(told.get("cluster_enabled", 0)):
            return client
        client.close()
        return redis.RedisCluster.from_url(self._url, **self._options)


def _no_option() -> SettingsError:
    return SettingsError(
        "store_url has a part that is no option of a Redis client",
        hint="the options behind `?` are those of redis-py, such as ssl_ca_certs=ca.pem",
    )


def _told(place: str, error: Exception) -> CheckpointError:
    if "WRONGTYPE" in str(error):
        return CheckpointError(
            f"{place} cannot be trusted: a key of ours holds something else",
            hint=f"nothing else may write keys that begin with `{PREFIX}:`",
        )
    return _unavailable(place, f"{type(error).__name__}: {error}")


def _unavailable(place: str, reason: str) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"{place} cannot be used now: {reason}",
        hint="look at the Redis of store_url: is it up, writable, not full, and its user allowed to? The last"
        " checkpoint is intact",
    )
