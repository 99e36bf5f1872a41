"""10,000 damages of what a worker has stored: each is refused, or what comes back is what was saved.

Files and keys are damaged as disks, copies and people do it: bits, bytes, blocks, a truncated or spliced
file, pieces in each other's place, a page of an older checkpoint (a write that a disk has lost).  Whatever
loads must be one whole checkpoint, the last one or one before: an older one is what the logs make up for, a
mixture of two or a part of one is not.  Seeded; a failure names its seed.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import msgspec
import pytest
import redis
from redis_places import redis_store
from river import linear_model, tree
from running import fresh_name
from structlog.testing import capture_logs

from engine import Labels, Pipeline, Topic
from engine.stores.artefacts import ArtefactFiles
from engine.stores.checkpoints import CheckpointStore
from engine.stores.files.checkpoint_file import PAGE_BYTES
from engine.stores.redis_checkpoints import RedisCheckpoints
from engine.stores.sqlite_checkpoints import SqliteCheckpoints
from engine.worker.model_factory import ModelFactory
from operators import field
from operators.models.digest import digest
from operators.models.signing import SigningKeys
from topics.errors import CheckpointError, ClaimError, ModelError

SQLITE, REDIS, ARTEFACTS = 6_000, 1_600, 2_400
"""Damages of each."""
GENERATIONS = 4
KEYS, WAITING = 120, 60
APART = ("waits/",)
BLOCK = 512
MEMORY = next((path for path in ("/dev/shm",) if Path(path).is_dir()), None)
"""Where writes cost no disk, if there is such a place."""
Rng = random.Random


class Saved(NamedTuple):
    """One checkpoint as it was saved."""

    meta: bytes
    entries: dict[str, bytes]
    apart: dict[str, bytes]


def generations() -> list[Saved]:
    """Return checkpoints one after the other: entries that stay, change, come and go."""
    rng = Rng(7)
    entries: dict[str, bytes] = {}
    apart: dict[str, bytes] = {}
    made = []
    for number in range(1, GENERATIONS + 1):
        for _ in range(KEYS // 2):
            entries[f"windows/k{rng.randrange(KEYS)}"] = rng.randbytes(rng.randrange(10, 90))
            entries.pop(f"windows/k{rng.randrange(KEYS)}", None)
        for _ in range(WAITING // 2):
            apart[f"waits/{number}-{rng.randrange(WAITING)}"] = rng.randbytes(rng.randrange(100, 400))
        for name in rng.sample(sorted(apart), WAITING // 5):
            del apart[name]
        made.append(Saved(b'{"generation": %d}' % number, dict(entries), dict(apart)))
    return made


SAVED = generations()
NAMES = sorted({name for one in SAVED for name in one.apart})


async def save(store: CheckpointStore, claim: int, number: int) -> None:
    before = SAVED[number - 1] if number else Saved(b"", {}, {})
    old, new = before.entries | before.apart, SAVED[number].entries | SAVED[number].apart
    delta: dict[str, bytes | None] = {name: data for name, data in new.items() if old.get(name) != data}
    delta |= dict.fromkeys(old.keys() - new.keys())
    await store.save(claim, SAVED[number].meta, delta)


async def found_in(store: CheckpointStore) -> Saved | None:
    """Take a store over as an owner does, and read all of it; None where it is empty.

    Fails where it is none of what was saved.
    """
    await store.look()
    await store.fence()
    checkpoint = await store.load()
    apart = store.stored("").get(NAMES)
    if checkpoint is None:
        assert apart == {}
        return None
    found = Saved(checkpoint.meta, dict(checkpoint.entries), apart)
    assert found in SAVED, f"what was loaded says {found.meta!r}, and is not that"
    return found


# -- files -------------------------------------------------------------------------------------------


def bits(rng: Rng, data: bytearray, _: bytes) -> None:
    for _ in range(rng.choice((1, 1, 1, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def some_bytes(rng: Rng, data: bytearray, _: bytes) -> None:
    at = rng.randrange(len(data))
    data[at : at + 4] = rng.randbytes(min(4, len(data) - at))


def block(rng: Rng, data: bytearray, _: bytes) -> None:
    at = rng.randrange(len(data))
    size = min(rng.choice((16, BLOCK, PAGE_BYTES)), len(data) - at)
    data[at : at + size] = rng.choice((bytes(size), rng.randbytes(size)))


def truncated(rng: Rng, data: bytearray, _: bytes) -> None:
    del data[rng.randrange(len(data)) :]


def spliced(rng: Rng, data: bytearray, _: bytes) -> None:
    """A piece is missing, or there twice."""
    at = rng.randrange(len(data))
    size = rng.choice((1, BLOCK, PAGE_BYTES))
    if rng.random() < 0.5:
        del data[at : at + size]
    else:
        data[at:at] = data[at : at + size]


def swapped(rng: Rng, data: bytearray, _: bytes) -> None:
    """Two pieces are in each other's place: whole pages, or whatever lies there."""
    size = rng.choice((PAGE_BYTES, BLOCK, 16))
    places = len(data) // size
    one, two = (rng.randrange(max(places, 1)) * size for _ in range(2))
    data[one : one + size], data[two : two + size] = data[two : two + size], data[one : one + size]


def lost_write(rng: Rng, data: bytearray, before: bytes) -> None:
    """A page, or a sector of one, is as it was before the last checkpoint."""
    size = rng.choice((PAGE_BYTES, PAGE_BYTES, BLOCK))
    at = rng.randrange(len(data)) // size * size
    if piece := before[at : at + size]:
        data[at : at + len(piece)] = piece


FileDamage = Callable[[Rng, bytearray, bytes], None]
FILE_DAMAGES: Sequence[FileDamage] = (bits, some_bytes, block, truncated, spliced, swapped, lost_write)


class Files(NamedTuple):
    """A checkpoint file and its log, as they are and as they were before the last checkpoint."""

    last: dict[str, bytes]
    before: dict[str, bytes]
    beside: dict[str, bytes]
    """The file of the checkpoint before, which is not damaged as well."""


async def files_of(folder: Path, *, closed: bool) -> Files:
    """Return the files of a store that was closed, its log folded in, or that died in mid-work."""
    store = SqliteCheckpoints(folder, "p", "scorer", 0, apart=APART)
    claim = await store.fence()
    kept: list[dict[str, bytes]] = []
    for number in range(GENERATIONS):
        await save(store, claim, number)
        if closed:
            await store.close()
            await store.load()
        paths = (store.path, store.path.with_name(f"{store.path.name}-wal"))
        kept.append({path.name: path.read_bytes() for path in paths if path.exists() and path.stat().st_size})
    await store.close()
    previous = store.path.with_suffix(".previous.sqlite")
    return Files(kept[-1], kept[-2], {previous.name: previous.read_bytes()})


async def damaged_files(folder: Path, files: Files, count: int, seed: int, *, alone: bool) -> Counter[str]:
    """Damage, load, damage, load; return what became of it, how often; `alone`: nothing lies beside it."""
    outcomes: Counter[str] = Counter()
    for number in range(count):
        rng = Rng(f"{seed}/{number}")
        shutil.rmtree(folder / "p", ignore_errors=True)
        (folder / "p").mkdir(parents=True)
        name = rng.choice(sorted(files.last))
        damage = FILE_DAMAGES[number % len(FILE_DAMAGES)]
        for each, data in files.last.items():
            changed = bytearray(data)
            if each == name:
                damage(rng, changed, files.before.get(each, b""))
            (folder / "p" / each).write_bytes(changed)
        for each, data in ({} if alone else files.beside).items():
            (folder / "p" / each).write_bytes(data)
        store = SqliteCheckpoints(folder, "p", "scorer", 0, apart=APART)
        what = f"{damage.__name__} of {name}, seed {seed}/{number}"
        outcome = await outcome_of(store, what)
        if outcome == "refused" and not alone:  # damage that the load did not meet: by the next start it does
            store = SqliteCheckpoints(folder, "p", "scorer", 0, apart=APART)
            outcome = await outcome_of(store, what)
        outcomes[outcome] += 1
    return outcomes


async def outcome_of(store: SqliteCheckpoints | RedisCheckpoints, what: str) -> str:
    """Return what became of a damaged store; an error must say which it is."""
    try:
        found = await found_in(store)
    except (CheckpointError, ClaimError) as error:
        return "refused" if store.place in str(error) else f"{what}: {error}"
    except Exception as error:
        raise AssertionError(f"{what}: {error}") from error
    finally:
        await store.close()
    if found is None:
        return "empty"
    return "whole" if found == SAVED[-1] else "older"


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "died"])
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "the one before is there"])
def test_no_damage_of_a_file_is_loaded(closed: bool, alone: bool) -> None:
    count = SQLITE // 2 if alone else SQLITE // 20

    async def scene(folder: Path) -> Counter[str]:
        files = await files_of(folder / "made", closed=closed)
        return await damaged_files(folder / "damaged", files, count, seed=int(closed), alone=alone)

    with TemporaryDirectory(dir=MEMORY) as folder:
        outcomes = asyncio.run(scene(Path(folder)))
    bad = outcomes["refused"] + outcomes["older"] + outcomes["empty"]
    assert count // 10 < bad < count, f"the damage hits nothing, or all: {outcomes}"
    assert not outcomes["empty"], "what was saved lies in the file itself"
    assert alone or not outcomes["refused"], f"there was one to go back to: {outcomes}"


# -- keys of a Redis ---------------------------------------------------------------------------------

Dumped = dict[str, dict[bytes, bytes]]
"""Hashes by the ends of their keys."""


def field_bits(rng: Rng, keys: Dumped) -> None:
    kind, field = somewhere(rng, keys)
    data = bytearray(keys[kind][field])
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    keys[kind][field] = bytes(data)


def field_cut(rng: Rng, keys: Dumped) -> None:
    kind, field = somewhere(rng, keys)
    keys[kind][field] = keys[kind][field][: rng.randrange(len(keys[kind][field]) + 1)]


def field_filled(rng: Rng, keys: Dumped) -> None:
    kind, field = somewhere(rng, keys)
    size = len(keys[kind][field])
    keys[kind][field] = rng.choice((bytes(size), rng.randbytes(size), b"0", b"7"))


def field_gone(rng: Rng, keys: Dumped) -> None:
    kind, field = somewhere(rng, keys)
    del keys[kind][field]


def field_added(rng: Rng, keys: Dumped) -> None:
    kind, field = somewhere(rng, keys)
    keys[rng.choice(sorted(keys))][b"windows/other"] = keys[kind][field]


def fields_swapped(rng: Rng, keys: Dumped) -> None:
    (kind, one), (other, two) = somewhere(rng, keys), somewhere(rng, keys)
    keys[kind][one], keys[other][two] = keys[other][two], keys[kind][one]


def key_gone(rng: Rng, keys: Dumped) -> None:
    """Evicted, as by a Redis that is set to."""
    del keys[rng.choice(sorted(keys))]


def keys_swapped(rng: Rng, keys: Dumped) -> None:
    one, two = rng.sample(sorted(keys), 2)
    keys[one], keys[two] = keys[two], keys[one]


def somewhere(rng: Rng, keys: Dumped) -> tuple[str, bytes]:
    """Return a field; every second time of the head, where little says much."""
    kind = rng.choice(["head", *sorted(keys)] if rng.random() < 0.5 else ["head"])
    return kind, rng.choice(sorted(keys[kind]))


KEY_DAMAGES = (
    field_bits, field_cut, field_filled, field_gone, field_added, fields_swapped, key_gone, keys_swapped,
)  # fmt: skip


def test_no_damage_of_a_redis_is_loaded(redis_url: str, tmp_path: Path) -> None:
    client, name = redis.Redis.from_url(redis_url), fresh_name("damaged")
    first = f"headrace:{{{name}/scorer/0}}:"

    def opened() -> RedisCheckpoints:
        return redis_store(redis_url, name, directory=tmp_path, apart=APART)

    def keys() -> Dumped:
        there = client.keys(f"headrace:?{name}/scorer/0?:*")
        return {key.decode()[len(first) :]: client.hgetall(key) for key in there}

    def put(dumped: Dumped) -> None:
        with client.pipeline() as together:
            together.delete(*(first + kind for kind in keys()), "none")
            for kind, fields in dumped.items():
                if fields:
                    together.hset(first + kind, mapping=fields)
            together.execute()

    async def scene() -> Counter[str]:
        store = opened()
        claim = await store.fence()
        for number in range(GENERATIONS):
            await save(store, claim, number)
        await store.close()
        made, outcomes = keys(), Counter[str]()
        for number in range(REDIS):
            rng, damage = Rng(f"redis/{number}"), KEY_DAMAGES[number % len(KEY_DAMAGES)]
            dumped = {kind: dict(fields) for kind, fields in made.items()}
            damage(rng, dumped)
            put(dumped)
            outcomes[await outcome_of(opened(), f"{damage.__name__}, seed redis/{number}")] += 1
        return outcomes

    with capture_logs() as told:
        outcomes = asyncio.run(scene())
    client.close()
    gone_back = [line for line in told if line["event"].startswith("the last checkpoint is damaged")]
    assert len(gone_back) >= outcomes["older"] > 0
    assert min(outcomes["refused"], outcomes["whole"]) > REDIS // 20, outcomes


# -- artefacts ---------------------------------------------------------------------------------------


class Row(msgspec.Struct):
    event_id: str
    event_time: int
    key: str
    x: float


def test_no_damage_of_an_artefact_is_loaded(tmp_path: Path) -> None:
    """Not another model either, which the same pipeline has signed."""
    pipeline = Pipeline(
        name="p",
        events=Topic("p.events", Row, key="key"),
        labels=Labels("p.labels", wait="1h"),
        features={"x": field("x")},
        models={"one": linear_model.LogisticRegression(), "two": tree.HoeffdingTreeClassifier()},
        champion="one",
    )
    stored = ArtefactFiles(tmp_path, "p")
    factory, made = ModelFactory(pipeline, keys=SigningKeys({"": b"the key of this test"}), stored=stored), []
    for name in ("one", "two"):
        model = factory.fresh(pipeline.field, name)
        for number in range(200):
            model.learn_one({"x": float(number % 7)}, number % 2 == 0)
        made.append(factory.stored(pipeline.field, model))
    stored.directory.mkdir(parents=True)
    outcomes: Counter[str] = Counter()
    for number in range(ARTEFACTS):
        rng, damage = Rng(f"artefact/{number}"), FILE_DAMAGES[number % len(FILE_DAMAGES)]
        (name, data), (_, other) = rng.sample(made, 2)
        changed = bytearray(data)
        damage(rng, changed, other)
        (stored.directory / name).write_bytes(changed)
        try:
            model = factory.model(pipeline.field, name)
        except ModelError:
            outcomes["refused"] += 1
        else:
            assert bytes(changed) == data, f"{damage.__name__}, seed artefact/{number}"
            assert digest(model) == name
            outcomes["whole"] += 1
    assert outcomes["refused"] > ARTEFACTS // 2, outcomes
