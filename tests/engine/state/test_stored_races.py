"""Checkpoints of a pipeline whose keys have races of their own, looked into and copied as any other."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
from keyed_world import KEYED, KEYS, played

from engine.machines.keyed.keyed_learner import RACES
from engine.offline.keyed.keyed_backtest import KeyedRun
from engine.settings import KafkaSettings, Settings
from engine.state.contents import KEPT_APART, all_entries
from engine.state.snapshots import restore, take
from engine.state.verification import verify
from engine.stores.checkpoints import OwnerRole
from engine.stores.places import checkpoint_store
from engine.worker.assembly import build_keyed_learner
from engine.worker.header import LearnerMeta, ScorerMeta, header_of
from engine.worker.model_factory import ModelFactory
from operators.models.signing import SigningKeys

KEY = "sixteen bytes or more"
NOWHERE = KafkaSettings(bootstrap_servers="127.0.0.1:1", connect_deadline_ms=1_000)
ROWS = [(KEYS[number % 3], float(number % 5) - 2, 1) for number in range(30)]


def settings_at(place: Path) -> Settings:
    return Settings(state_dir=place, signing_key=KEY, kafka=NOWHERE)


async def entries_in(settings: Settings, role: OwnerRole) -> dict[str, bytes]:
    store = checkpoint_store(settings, KEYED.name, role, 0, apart=KEPT_APART)
    try:
        return (await all_entries(store))[1]
    finally:
        await store.close()


def test_checkpoints_of_races_are_verified_copied_and_put_back(tmp_path: Path) -> None:
    first, second = settings_at(tmp_path / "first"), settings_at(tmp_path / "second")
    models = ModelFactory(KEYED, keys=SigningKeys({"": KEY.encode()}))
    run = KeyedRun(KEYED, source=models)
    played(run, ROWS)
    header = header_of(KEYED, 1)
    parts: dict[OwnerRole, tuple[Any, Any]] = {
        "scorer": (run.scorer, ScorerMeta(KEYED.scorer_definition(), (), {}, header)),
        "learner": (run.learner, LearnerMeta(KEYED.learner_definition(), header)),
    }

    async def work() -> None:
        for role, (part, meta) in parts.items():
            store = checkpoint_store(first, KEYED.name, role, 0, apart=KEPT_APART)
            await store.save(await store.fence(), msgspec.json.encode(meta), part.snapshot())
            await store.close()
        found = await verify(KEYED, first, tmp_path / "copies")
        assert [(one.name, one.problem) for one in found] == [("scorer-0", ""), ("learner-0", "")]
        await take(KEYED, first, tmp_path / "taken")
        await restore(KEYED, second, tmp_path / "taken", tmp_path / "more copies")
        for role in parts:
            assert await entries_in(second, role) == await entries_in(first, role) != {}
        store = checkpoint_store(second, KEYED.name, "learner", 0, apart=(RACES,))
        checkpoint = await store.load()
        assert checkpoint is not None
        learner = build_keyed_learner(KEYED, source=models, stored=store.stored(RACES))
        learner.restore(checkpoint.entries)
        assert learner.digests() == run.learner.digests()
        assert learner.digests().keys() == set(KEYS)
        await store.close()

    asyncio.run(work())


def test_a_race_that_does_not_decode_is_named(tmp_path: Path) -> None:
    """Races are read one by one, so a worker would meet it at the next event of its key."""
    settings = settings_at(tmp_path / "state")
    run = KeyedRun(KEYED, source=ModelFactory(KEYED, keys=SigningKeys({"": KEY.encode()})))
    played(run, ROWS)
    entries = run.learner.snapshot()
    meta = msgspec.json.encode(LearnerMeta(KEYED.learner_definition(), header_of(KEYED, 1)))
    lost = "races/c%2Fd%20%C3%A9/place"
    of_race = [name for name in entries if name.startswith("races/a/model")]
    assert lost in entries
    assert of_race

    async def found(changed: dict[str, bytes | None]) -> str:
        store = checkpoint_store(settings, KEYED.name, "learner", 0, apart=KEPT_APART)
        await store.save(await store.fence(), meta, entries | changed)
        await store.close()
        (row,) = [
            one for one in await verify(KEYED, settings, tmp_path / "copies") if one.name == "learner-0"
        ]
        return row.problem

    async def work() -> None:
        assert await found({}) == ""
        assert "the race of `c/d é`" in await found({lost: None})
        assert "the race of `a`" in await found({of_race[0]: b"no model"})

    asyncio.run(work())
