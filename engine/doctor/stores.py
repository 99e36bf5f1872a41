"""Redis: is it there, does it keep what it is given, may we use it.

Lives here: which answers are faults.  Never here: the connection (`engine/stores/redis_connection.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from engine.doctor.findings import DoctorFinding
from engine.settings import Settings
from engine.stores.redis_connection import BlockingConnection
from topics.errors import HeadraceError

__all__ = ["info_findings", "redis_findings", "store_findings"]

REDIS_MIN = (5, 0)
PATIENCE_S = 5.0


def store_findings(settings: Settings, *, write: bool) -> Iterator[DoctorFinding]:
    """Yield what there is to say of the Redis of checkpoints, and of that of features."""
    if settings.store_url is not None:
        yield from redis_findings("store_url", settings.store_url.get_secret_value(), write=write)
    if settings.redis_url is not None:
        yield from redis_findings("redis_url", settings.redis_url.get_secret_value(), write=write)
    if settings.store_url is None:
        yield DoctorFinding(
            "store", "ok", f"checkpoints lie in {settings.state_dir}: one machine, no Redis needed"
        )


def redis_findings(setting: str, url: str, *, write: bool) -> Iterator[DoctorFinding]:
    """Yield what there is to say of one Redis; `write` says to run a script that does nothing."""
    try:
        connection = BlockingConnection(url, deadline_s=PATIENCE_S)
        try:
            told = connection.call("INFO", "everything")
            if write:
                connection.call("EVAL", "return 1", 1, "headrace:doctor")
        finally:
            connection.close()
    except HeadraceError as error:
        yield DoctorFinding(setting, "fail", error.message, error.hint or "is that Redis up?")
        return
    nodes = told if all(isinstance(value, dict) for value in told.values()) else {connection.place: told}
    for place, info in nodes.items():
        yield from info_findings(setting, str(place), info)


def info_findings(setting: str, place: str, info: Mapping[str, Any]) -> Iterator[DoctorFinding]:
    """Yield what a server's own figures say: version, role, persistence, eviction.

    What is lost of `store_url` are checkpoints; of `redis_url` only features, which can be made again.
    """
    keeps = setting == "store_url"
    version = str(info.get("redis_version", "0"))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    old = numbers < REDIS_MIN
    yield DoctorFinding(
        setting,
        "fail" if old else "ok",
        f"{place}: Redis {version}",
        "upgrade Redis to 5 or newer" if old else "",
    )
    if info.get("role") == "slave":
        yield DoctorFinding(
            setting, "fail", f"{place} is a replica and takes no writes", f"name the primary in {setting}"
        )
    if not int(info.get("aof_enabled", 0)) and keeps:
        yield DoctorFinding(
            "persistence",
            "warn",
            f"{place} keeps no append-only file: a restart loses what came after its last snapshot, or all",
            "set appendonly yes, and appendfsync everysec or always",
        )
    if info.get("rdb_last_bgsave_status", "ok") != "ok" or info.get("aof_last_write_status", "ok") != "ok":
        yield DoctorFinding(
            "persistence",
            "fail",
            f"{place} cannot write to its disk",
            "look at its log, make room on its disk",
        )
    policy, limit = str(info.get("maxmemory_policy", "noeviction")), int(info.get("maxmemory", 0))
    if policy != "noeviction" and limit:
        yield DoctorFinding(
            "eviction",
            "fail" if keeps else "warn",
            f"{place} drops keys when {limit:,} bytes are full ({policy})",
            "set maxmemory-policy noeviction: a full Redis then refuses writes, and a worker waits",
        )
    used = int(info.get("used_memory", 0))
    if limit and used > limit * 9 // 10:
        yield DoctorFinding(
            "memory", "warn", f"{place} has {used:,} of {limit:,} bytes in use", "raise maxmemory, or erase"
        )
