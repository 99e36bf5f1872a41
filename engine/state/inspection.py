"""What the checkpoints of a pipeline hold: header, places in the logs, entries by part; and all of one key.

Lives here: both answers, as plain values that `--json` prints as they are.  Never here: tables.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from redis.exceptions import RedisError

from engine.definition.pipeline import Pipeline
from engine.machines.scorer import Scorer
from engine.settings import Settings
from engine.state.contents import Owned, all_entries, private_copy, restored, stored_models, stores_of
from engine.stores.hashes import RedisHashes
from engine.stores.online_features import served_key
from engine.worker.header import decode_learner_meta, decode_meta
from topics.errors import SettingsError

__all__ = ["inspect", "inspect_key"]


async def inspect(pipeline: Pipeline, settings: Settings, directory: Path) -> list[dict[str, Any]]:
    """Return what each checkpoint holds; copies are made under `directory`."""
    rows = []
    for owned, place in await stores_of(pipeline, settings):
        copy = await private_copy(pipeline, settings, owned, directory)
        found, entries = await all_entries(copy)
        await copy.close()
        counts: Counter[str] = Counter()
        sizes: Counter[str] = Counter()
        for name, value in entries.items():
            part = _part_of(name)
            counts[part] += 1
            sizes[part] += len(name.encode()) + len(value)
        rows.append(
            {
                "name": owned.name,
                "place": place,
                "claim": found.claim,
                **_meta_of(owned, found.meta),
                "position": msgspec.json.decode(entries.get("position", b"null")),
                "parts": {part: {"entries": counts[part], "bytes": sizes[part]} for part in sorted(counts)},
            }
        )
    return rows


def _meta_of(owned: Owned, meta: bytes) -> dict[str, Any]:
    match owned.role:
        case "scorer":
            told = msgspec.to_builtins(decode_meta(meta))
        case "learner":
            told = msgspec.to_builtins(decode_learner_meta(meta))
        case "snapshot":
            told = {"snapshot": msgspec.json.decode(meta)}
    return dict(told)


def _part_of(name: str) -> str:
    """Return the part to which an entry belongs, without its key.

    >>> _part_of("features/1a2b/JFK"), _part_of("join/w/018b"), _part_of("position")
    ('features/1a2b', 'join/w', 'position')
    """
    pieces = name.split("/")
    return "/".join(pieces[: max(1, min(len(pieces) - 1, 4 if pieces[0] == "rekeying" else 2))])


async def inspect_key(
    pipeline: Pipeline, settings: Settings, directory: Path, key: str
) -> list[dict[str, Any]]:
    """Return all that is kept of one key of the events topic, by place.

    Raises SettingsError where the Redis of served features cannot be asked.
    """
    rows: list[dict[str, Any]] = []
    for owned, place in await stores_of(pipeline, settings):
        if owned.role != "scorer":
            continue
        copy = await private_copy(pipeline, settings, owned, directory)
        with stored_models(pipeline, settings) as models:
            scorer = await restored(pipeline, models, owned, copy)
        assert scorer is not None
        rows += _windows(pipeline, scorer, owned, place, key) + _waiting(scorer, owned, place, key)
        await copy.close()
    if pipeline.serve_features:
        rows += await _served(pipeline, settings, key)
    return rows


def _windows(pipeline: Pipeline, scorer: Scorer, owned: Owned, place: str, key: str) -> list[dict[str, Any]]:
    """Return the windows of a key as an event at the newest time of the partition would see them."""
    time = scorer.position.time_max
    return [
        {
            "what": "windows",
            "name": owned.name,
            "place": place,
            "key": kept,
            "by": list(group.keys),
            "of": group.source,
            "time": time,
            "values": values,
        }
        for group, kept, values in scorer.features.values_of(pipeline.events.key, key, time)
    ]


def _waiting(scorer: Scorer, owned: Owned, place: str, key: str) -> list[dict[str, Any]]:
    """Return the answers to a key's events that are held until their horizon, and labels that came early."""
    return [
        {"what": what, "name": owned.name, "place": place, "key": key, "values": values}
        for what, values in scorer.join.held_of(key)
    ]


async def _served(pipeline: Pipeline, settings: Settings, key: str) -> list[dict[str, Any]]:
    if settings.features_url is None:
        return []
    name = served_key(pipeline.name, key)
    served = RedisHashes(settings.features_url.get_secret_value())
    try:
        values = await served.whole(name)
    except (OSError, RedisError) as error:
        raise SettingsError(
            f"served features cannot be read: {type(error).__name__}: {error}",
            hint="is the Redis of HEADRACE_REDIS_URL up?",
        ) from None
    finally:
        await served.close()
    return [{"what": "served features", "place": name, "key": key, "values": values}] if values else []
