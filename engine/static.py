"""Static features of a run: which values its events need, asked for once.

Lives here: the way from a run's events to one mapping per event, as `Features.step_events`
takes it.  Never here: stores, caches, deadlines (`lookups.py`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from engine.intake import Run
from engine.lookups import Address, Lookups, RedisHashes, SqliteHashes
from engine.settings import Settings
from operators.expressions import Lookup
from topics.codec import Decoded

__all__ = ["STATIC_FILE", "StaticFeatures"]

STATIC_FILE = "static-features.sqlite"
"""The embedded store's file in the state directory; a Redis takes its place where `redis_url` is set."""


class StaticFeatures:
    """Resolves a pipeline's look-ups, one round trip per run."""

    def __init__(self, wanted: Sequence[Lookup], settings: Settings) -> None:
        self._wanted = tuple(wanted)
        self._lookups: Lookups | None = None
        if wanted:
            url = settings.redis_url
            hashes = (
                RedisHashes(url.get_secret_value())
                if url is not None
                else SqliteHashes(settings.state_dir / STATIC_FILE)
            )
            self._lookups = Lookups(hashes, clock=time.monotonic)

    @property
    def counts(self) -> Mapping[str, int]:
        """Return how many values were found, missing or unavailable."""
        return {} if self._lookups is None else self._lookups.outcomes

    async def of(self, run: Run) -> list[Mapping[str, object]] | None:
        """Return one mapping per event of the run, or None where the pipeline looks nothing up."""
        if self._lookups is None or not run.events:
            return None
        addresses: list[dict[str, Address]] = [
            {wanted.address: (wanted.store_key(read.decoded.value), wanted.name) for wanted in self._wanted}
            if isinstance(read.decoded, Decoded)
            else {}
            for read in run.events
        ]
        asked = list(dict.fromkeys(address for row in addresses for address in row.values()))
        found = await self._lookups.fetch(asked)
        return [{name: found[address] for name, address in row.items()} for row in addresses]

    async def close(self) -> None:
        """Close the store's connection."""
        if self._lookups is not None:
            await self._lookups.close()
