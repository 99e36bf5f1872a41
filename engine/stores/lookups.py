"""Static features while the stream runs: what a store knows about a merchant, a card, an airport.

Lives here: which values a run's events need, one question per run, a cache, a deadline; the same from timed
rows.  Never here: stores (`hashes.py`), files, defaults (the features' own), which row holds when
(`operators/windows/asof.py`).

Strategy.  A value that cannot be had in time is missing, never waited for: predictions go
out with the feature's default, and the outcome is counted.  After a failure the store is
left alone for a while.  A store that was too slow once is still asked, for the cache, but no
batch waits for it until it has answered within the deadline again.  So an outage costs one
deadline, not one per batch.  What was logged with the prediction is what is learned, so a
late or changed value never makes training differ from serving.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import structlog
from redis.exceptions import RedisError

from engine.machines.admission import Run
from engine.settings import Settings
from engine.stores.hashes import Hashes, give_up, static_store
from operators.language.fields import Lookup
from operators.windows.asof import AsOf
from topics.codec import Decoded
from topics.stored_features import StoredValue, parsed

__all__ = ["PAUSE_MS", "Address", "Lookups", "StaticFeatures", "StaticHistory"]

Address = tuple[str, str]
"""Key of a hash and the name of a field in it: ("merchant:7", "risk")."""

PAUSE_MS = 2_000
"""After a failure the store is not asked for this long."""
CACHED_MAX = 100_000
"""Values kept, about 20 MB; the oldest go first."""

log = structlog.get_logger("headrace")


class Lookups:
    """Look-ups with a cache in front of a store.

    `outcomes` counts values by how they were come by: `cached`, `found`, `missing`,
    `unavailable` (deadline, error, or within the pause after one).  `clock` gives seconds
    that never go back.
    """

    def __init__(
        self,
        store: Hashes,
        *,
        clock: Callable[[], float],
        ttl_ms: int,
        deadline_ms: int,
    ) -> None:
        self._store = store
        self._clock = clock
        self._ttl_s = ttl_ms / 1000
        self._deadline_s = deadline_ms / 1000
        self._cache: dict[Address, tuple[float, StoredValue]] = {}
        self._asked_again_at = 0.0
        self._reading: asyncio.Task[dict[Address, StoredValue] | None] | None = None
        self._slow = False
        """The last answer came after the deadline, or has not come yet."""
        self.outcomes: Counter[str] = Counter()
        self.last_error = ""

    async def fetch(self, addresses: Sequence[Address]) -> dict[Address, StoredValue]:
        """Return a value for every address, within the deadline and without raising.

        Numbers come as int or float, everything else as text.
        """
        now = self._clock()
        values: dict[Address, StoredValue] = {}
        unknown: dict[Address, None] = {}
        for address in dict.fromkeys(addresses):
            until, value = self._cache.get(address, (now, None))
            if until > now:
                values[address] = value
            else:
                unknown[address] = None
        self.outcomes["cached"] += len(values)
        if unknown:
            values |= await self._ask(tuple(unknown), now)
        return values

    async def _ask(self, addresses: Sequence[Address], now: float) -> dict[Address, StoredValue]:
        if now < self._asked_again_at or (self._reading is not None and not self._reading.done()):
            return self._unavailable(addresses)
        self._reading = asyncio.create_task(self._read(addresses))
        # Not cancelled when the deadline passes: a connection that is half-way through an answer
        # could not be used again, and what comes late still fills the cache.
        await asyncio.wait({self._reading}, timeout=0 if self._slow else self._deadline_s)
        if not self._reading.done():
            self._slow = True
            return self._unavailable(addresses)
        read = self._reading.result()
        return self._unavailable(addresses) if read is None else read

    async def _read(self, addresses: Sequence[Address]) -> dict[Address, StoredValue] | None:
        """Return values from the store and cache them; None after an error."""
        wanted: dict[str, list[str]] = {}
        for key, name in addresses:
            wanted.setdefault(key, []).append(name)
        asked_at = self._clock()
        try:
            answers = await self._store.get(wanted)
        except (OSError, RedisError, sqlite3.Error) as error:
            self.last_error = f"{type(error).__name__}: {error}"
            log.warning("static features cannot be had; defaults instead", reason=self.last_error)
            self._asked_again_at = self._clock() + PAUSE_MS / 1000
            return None
        self._slow = self._clock() - asked_at > self._deadline_s
        read: dict[Address, StoredValue] = {}
        until = self._clock() + self._ttl_s
        for (key, names), texts in zip(wanted.items(), answers, strict=True):
            for name, text in zip(names, texts, strict=True):
                value = None if text is None else parsed(text)
                self.outcomes["missing" if value is None else "found"] += 1
                read[key, name] = value
                self._cache.pop((key, name), None)
                self._cache[key, name] = (until, value)
        while len(self._cache) > CACHED_MAX:
            del self._cache[next(iter(self._cache))]
        return read

    def _unavailable(self, addresses: Sequence[Address]) -> dict[Address, StoredValue]:
        """Return what the cache still has, however old: better than a default."""
        values: dict[Address, StoredValue] = {}
        for address in addresses:
            _, values[address] = self._cache.get(address, (0.0, None))
        self.outcomes["unavailable"] += len(addresses)
        return values

    async def close(self) -> None:
        """Close the store."""
        if self._reading is not None:
            await give_up(self._reading)
        await self._store.close()


class StaticFeatures:
    """Resolves a pipeline's look-ups from the store, one question per run."""

    def __init__(self, wanted: Sequence[Lookup], settings: Settings) -> None:
        self._wanted = _Wanted(wanted)
        self._lookups: Lookups | None = None
        if wanted:
            self._lookups = Lookups(
                static_store(settings),
                clock=time.monotonic,
                ttl_ms=settings.lookup_ttl_ms,
                deadline_ms=settings.lookup_deadline_ms,
            )

    @property
    def counts(self) -> Mapping[str, int]:
        """Return how many values were found, missing or unavailable."""
        return {} if self._lookups is None else self._lookups.outcomes

    async def of(self, run: Run) -> list[Mapping[str, object]] | None:
        """Return one mapping per event of the run, or None where the pipeline looks nothing up."""
        if self._lookups is None or not run.events:
            return None
        rows = [
            self._wanted.addresses(read.decoded.value) if isinstance(read.decoded, Decoded) else {}
            for read in run.events
        ]
        values = await self._lookups.fetch([address for row in rows for address in row.values()])
        return [{name: values[address] for name, address in row.items()} for row in rows]

    async def close(self) -> None:
        """Close the store's connection."""
        if self._lookups is not None:
            await self._lookups.close()


class StaticHistory:
    """Resolves a pipeline's look-ups from timed rows: as of each event's time, however late it comes."""

    def __init__(self, wanted: Sequence[Lookup], known: AsOf) -> None:
        self._wanted = _Wanted(wanted)
        self._known = known

    def of(self, run: Run) -> list[Mapping[str, object]]:
        """Return one mapping per event of the run."""
        at = self._known.at
        rows: list[Mapping[str, object]] = []
        for read in run.events:
            row: dict[str, object] = {}
            if isinstance(read.decoded, Decoded):
                event_time = read.decoded.event_time
                for name, (key, field) in self._wanted.addresses(read.decoded.value).items():
                    row[name] = at(key, field, event_time)
            rows.append(row)
        return rows


class _Wanted:
    """The look-ups of a pipeline by template, so that each key of an event is made once."""

    def __init__(self, wanted: Sequence[Lookup]) -> None:
        by_template: dict[str, list[Lookup]] = {}
        for lookup in wanted:
            by_template.setdefault(lookup.template, []).append(lookup)
        self._templates = [
            (
                template.format_map,
                lookups[0].key_fields,
                [(lookup.address, lookup.name) for lookup in lookups],
            )
            for template, lookups in by_template.items()
        ]

    def addresses(self, value: object) -> dict[str, Address]:
        """Return where each look-up of an event is answered, by `Lookup.address`."""
        rows: dict[str, Address] = {}
        for render, fields, names in self._templates:
            key = render({field: getattr(value, field) for field in fields})
            for address, name in names:
                rows[address] = (key, name)
        return rows
