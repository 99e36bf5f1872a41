"""Static features of a run: which values its events need, one mapping per event.

Lives here: the way from a run's events to what `Features.step_events` takes, from a store as it
is now or from timed rows.  Never here: stores (`hashes.py`), caches and deadlines
(`lookups.py`), files (`static_files.py`), which row holds when (`operators/asof.py`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from engine.machines.intake import Run
from engine.settings import Settings
from engine.stores.hashes import static_store
from engine.stores.lookups import Address, Lookups
from operators.asof import AsOf
from operators.language.by import Lookup
from topics.codec import Decoded

__all__ = ["StaticFeatures", "StaticHistory"]


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
        found = await self._lookups.fetch([address for row in rows for address in row.values()])
        return [{name: found[address] for name, address in row.items()} for row in rows]

    async def close(self) -> None:
        """Close the store's connection."""
        if self._lookups is not None:
            await self._lookups.close()


class StaticHistory:
    """The same from timed rows: what held at each event's own time, however late the event comes."""

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
