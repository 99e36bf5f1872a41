"""Dynamic features for others: what the pipeline knows of each key, written through to Redis.

Lives here: gathering the newest features per key, writing them, what happens when that fails.
Never here: computing features (`operators/windows/features.py`), reading them (any service: HGETALL).

Strategy.  The stream never waits for a write: while one is on its way, the newest features of
each key gather for the next, so a Redis that is slower than the stream gets fewer, larger
writes.  A checkpoint waits for what has gathered, up to a deadline, so that what a crash
repeats covers what it lost.  Whether a row is newer is decided in Redis by event time, in one
script per batch: order holds across batches, late events, restarts and owners.

    key      headrace:{pipeline}:features:{key}
    fields   each feature's text (1 and 0 for bools), and event_time, ms
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import orjson
import structlog
from redis.exceptions import RedisError

from engine.definition.pipeline import SERVED_TIME, Pipeline
from engine.machines.outbox import Scored
from engine.settings import Settings
from engine.stores.hashes import give_up, redis_client
from engine.stores.lookups import PAUSE_MS
from topics.errors import SettingsError, StoreUnavailableError
from topics.messages import Prediction
from topics.stored_features import stored_text

__all__ = ["ServedFeatures", "served_key"]

KEYS_MAX = 10_000
"""Keys that wait for Redis, about 10 MB; the ones that have waited longest are given up."""
KEYS_PER_SCRIPT_MAX = 100
"""Redis does nothing else while a script runs: 1 ms for so many."""
KEYS_PER_TRIP_MAX = 1_000
"""Keys of one pipelined round trip, about 500 KB."""
KEPT_MS = 7 * 86_400_000
"""A key without events for a week is forgotten: nothing rather than features of long ago."""

NEWER = """
local written = 0
for i, key in ipairs(KEYS) do
  local known = redis.pcall('HGET', key, 'event_time')
  if type(known) ~= 'string' or (tonumber(known) or 0) <= tonumber(ARGV[2 * i]) then
    redis.call('DEL', key)
    redis.call('HSET', key, unpack(cjson.decode(ARGV[2 * i + 1])))
    redis.call('PEXPIRE', key, ARGV[1])
    written = written + 1
  end
end
return written
"""
"""Put a row in the place of an older one, whole; return how many were put."""

ERASE_LOOK_S, ERASE_LOOKS_MAX = 0.05, 20
"""How often, and how many times, it is looked whether what a checkpoint waits for is erased."""
log = structlog.get_logger("headrace")


def served_key(pipeline: str, key: str) -> str:
    """Return where the features of `key` are in Redis."""
    return f"headrace:{pipeline}:features:{key}"


class ServedFeatures:
    """Writes the newest features of each key to Redis, if the pipeline asks for that.

    `counts` has keys by what became of them: `written`, `older` (Redis had newer ones), `failed` (to
    be tried again with the next batch), `dropped` (more than KEYS_MAX were waiting).  Raises
    SettingsError without a Redis.
    """

    def __init__(
        self, pipeline: Pipeline, settings: Settings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pipeline = pipeline.name
        self._clock = clock
        self._deadline_s = settings.lookup_deadline_ms / 1000
        self._redis: Any = None
        self._waiting: dict[str, Prediction] = {}
        self._erasing: set[str] = set()
        """Keys whose rows are to be removed, before anything else is written."""
        self._writing: asyncio.Task[None] | None = None
        self._again_at = 0.0
        self.counts: Counter[tuple[str, str]] = Counter()
        if pipeline.serve_features:
            if settings.features_url is None:
                raise SettingsError(
                    "serve_features needs a Redis that other services can read",
                    hint="set HEADRACE_REDIS_URL or HEADRACE_STORE_URL, or leave serve_features out",
                )
            self._redis = redis_client(settings.features_url.get_secret_value())

    def put(self, scored: Sequence[Scored], erased: Sequence[str] = ()) -> None:
        """Queue the features of a run's answers; they are written in the background.

        What was put before of keys that the run `erased` is removed first.
        """
        if self._redis is None:
            return
        self._erasing.update(erased)
        for key in erased:
            self._waiting.pop(key, None)
        waiting = self._waiting
        for answer, key, _ in scored:
            waiting_answer = waiting.get(key)
            if waiting_answer is None or waiting_answer.event_time <= answer.event_time:
                waiting[key] = answer
        self._bound()
        self._start()

    async def erased(self) -> None:
        """See that all that was to be erased is: a checkpoint behind it must not be written before.

        Raises StoreUnavailableError where Redis has not done it within a second: ask again.
        """
        for _ in range(ERASE_LOOKS_MAX):
            if not self._erasing:
                return
            self._start()
            await asyncio.sleep(ERASE_LOOK_S)
        if self._erasing:
            raise StoreUnavailableError(
                f"served features of {len(self._erasing)} keys are not erased yet",
                hint="bring the Redis of HEADRACE_REDIS_URL back",
            )

    async def drain(self) -> None:
        """Wait until all that was put is written, or the deadline has passed; never raises RedisError."""
        self._start()
        if self._writing is not None and not self._writing.done():
            await asyncio.wait({self._writing}, timeout=self._deadline_s)

    async def close(self) -> None:
        """Write what is left, within the deadline, and close the connection."""
        if self._redis is None:
            return
        await self.drain()
        if self._writing is not None:
            await give_up(self._writing)
        if self._waiting:
            log.warning("features are left unwritten", keys=len(self._waiting))
            self.counts["feature_writes", "dropped"] += len(self._waiting)
        await self._redis.aclose()

    def _start(self) -> None:
        """Start a write in the background, unless one is running or Redis failed a moment ago."""
        writing = self._writing
        if writing is not None and writing.done():
            self._writing = None
            writing.result()  # raises what is no failure of Redis
        if (self._waiting or self._erasing) and self._writing is None and self._clock() >= self._again_at:
            self._writing = asyncio.create_task(self._write())

    async def _write(self) -> None:
        while self._waiting or self._erasing:
            erasing = list(islice(self._erasing, KEYS_PER_TRIP_MAX))
            batch = {} if erasing else dict(islice(self._waiting.items(), KEYS_PER_TRIP_MAX))
            for key in batch:
                del self._waiting[key]
            try:
                if erasing:
                    await self._remove(erasing)
                    continue
                written = await self._send(list(batch.items()))
            except (OSError, RedisError) as error:
                self.counts["feature_writes", "failed"] += len(batch)
                log.warning(
                    "features cannot be written; again later", reason=f"{type(error).__name__}: {error}"
                )
                self._again_at = self._clock() + PAUSE_MS / 1000
                self._put_back(batch)
                return
            except asyncio.CancelledError:
                self._put_back(batch)
                raise
            self.counts["feature_writes", "written"] += written
            self.counts["feature_writes", "older"] += len(batch) - written

    async def _remove(self, keys: Sequence[str]) -> None:
        async with self._redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.delete(served_key(self._pipeline, key))
            await pipe.execute()
        self._erasing.difference_update(keys)

    async def _send(self, rows: Sequence[tuple[str, Prediction]]) -> int:
        """Write rows in one round trip; return how many were newer than what Redis had."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for start in range(0, len(rows), KEYS_PER_SCRIPT_MAX):
                some = rows[start : start + KEYS_PER_SCRIPT_MAX]
                keys = [served_key(self._pipeline, key) for key, _ in some]
                rest = [part for _, answer in some for part in (answer.event_time, _fields(answer))]
                pipe.eval(NEWER, len(keys), *keys, KEPT_MS, *rest)
            return sum(await pipe.execute())

    def _put_back(self, batch: dict[str, Prediction]) -> None:
        """Queue a failed batch again; rows that came meanwhile replace older ones of the same key."""
        for key in self._erasing:
            batch.pop(key, None)
        for key, answer in self._waiting.items():
            failed = batch.get(key)
            if failed is None or failed.event_time <= answer.event_time:
                batch[key] = answer
        self._waiting = batch
        self._bound()

    def _bound(self) -> None:
        while len(self._waiting) > KEYS_MAX:
            del self._waiting[next(iter(self._waiting))]
            self.counts["feature_writes", "dropped"] += 1


def _fields(answer: Prediction) -> bytes:
    """Return names and values alternating, as a JSON list of texts, the event's time last."""
    flat: list[str] = []
    for name, value in answer.features.items():
        flat += (name, stored_text(value))
    flat += (SERVED_TIME, str(answer.event_time))
    return orjson.dumps(flat)
