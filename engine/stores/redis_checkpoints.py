"""Checkpoints of any number of machines: in a Redis, one hash and the last two deltas per partition.

Lives here: how a Redis keeps the protocol of `checkpoints.py`, and the checkpoint before the last beside it.
Never here: the scripts (`redis_scripts.py`), connections (`redis_connection.py`).

    headrace:{flights/scorer/0}:head        claim, records of the last two checkpoints, what is in the base
    headrace:{flights/scorer/0}:base        the state as of the checkpoint before the last, a hash
    headrace:{flights/scorer/0}:delta:7:0   what checkpoint 7 changed, in chunks, each a hash

Strategy.  A script that applied a large delta would hold Redis, and everybody who uses it, for seconds.  So
a delta is staged beside what counts, chunk by chunk; one script then makes the head say that it counts,
which costs next to nothing.  What a checkpoint says is the base with the deltas of the last two laid over
it.  The next save first moves the older of the two into the base, chunk by chunk: laid over it again that
changes nothing, so a crash between two chunks is harmless, and so the previous checkpoint is there whole
until the next one counts.

Every script checks the claim, and the token of the checkpoint that the owner goes on from: a digest of its
record and, through the record, of all before it.  So neither an older owner nor a Redis that went back to
an older state (a failover, a backup) gets a delta that was made for another checkpoint.

Every entry carries a checksum; the records and the head have counts and sums of them.  Durability is what
the Redis is told to give: with `appendfsync everysec` a power cut may take the last second of checkpoints,
which the logs make up for.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from secrets import token_hex
from typing import Any, NamedTuple, TypeVar
from zlib import crc32

import msgspec
import structlog

from engine.stores import redis_scripts as scripts
from engine.stores.checkpoints import Checkpoint, Head, OwnerRole, seal_of
from engine.stores.files.apart_file import ApartFile
from engine.stores.files.entry_tables import Apart
from engine.stores.hashes import give_up
from engine.stores.reading import Reading
from engine.stores.redis_connection import PREFIX, StoreConnection
from topics.errors import CheckpointError, ClaimError, StoreUnavailableError

__all__ = ["FORMAT", "RedisCheckpoints"]

FORMAT = 1
"""Kept in each checkpoint's record; another format is refused, never guessed at."""
RACES_MAX = 100
"""Owners that may come first while one claims."""
READS_MAX = 5
"""Checkpoints that an owner may write while somebody else reads one."""
STAGED_MAX = 1_000_000
"""Chunks of one delta: half a billion entries.  The number in the head is sealed by nothing."""
SCAN_BYTES = 1_048_576
"""Of the base in one answer, about; entries differ, so the count follows what the last answer held."""
SCAN_ENTRIES_MIN, SCAN_ENTRIES_MAX = 10, 2_000
PAUSE_S = 0.5
"""Between two tries to reach a store that cannot be used."""

_HEAD = (
    "claim", "claim_seal", "token", "current", "previous", "staged", "merged", "merged_chunks", "base_rows",
    "base_total",
)  # fmt: skip

log = structlog.get_logger("headrace")
Answer = TypeVar("Answer")
_Change = tuple[str, bytes | None, int]
"""Name, value and checksum of an entry; None and 0 where it goes."""


class _Record(msgspec.Struct, frozen=True, array_like=True):
    """What is known of one checkpoint."""

    format: int
    number: int
    """From 1 on; its delta's keys have it."""
    claim: int
    meta: bytes
    before: str
    """Token of the checkpoint that it changes, empty for the first."""
    chunks: int
    entries: int
    """Of its delta."""
    total: int
    """Sum of their checksums."""
    time_ms: int
    versions: dict[str, str]
    """Of what wrote it."""


class _Head(NamedTuple):
    """The head as it was read."""

    claim: int
    token: str
    current: _Record | None
    previous: _Record | None
    staged: int
    """Chunks of the next delta that are there and may not count."""
    merged: int
    """Number of the last checkpoint whose delta is in the base."""
    merged_chunks: int
    """Chunks of the next delta that are in the base already."""
    base: tuple[int, int]
    """Entries of the base, and the sum of their checksums."""

    @property
    def number(self) -> int:
        return 0 if self.current is None else self.current.number


class _Attempt(NamedTuple):
    """A commit that was asked for; whether it came about is known when the store has answered."""

    token: str
    delta: dict[str, bytes | None]


class _DamagedError(Exception):
    """Something that a checkpoint consists of is not what was written."""


class RedisCheckpoints:
    """The checkpoints of one partition of one pipeline in a Redis.

    Entries whose names begin with one of `apart` are copied into a file without a name in `directory` when a
    checkpoint is loaded (`files/apart_file.py`), and read from there.  What reads waits for a store that
    cannot be used, up to `outage_deadline_s`; `save` does not: who saves looks first whether it still may.
    Raises StoreUnavailableError, and CheckpointError for what cannot be trusted.
    """

    def __init__(
        self,
        connection: StoreConnection,
        pipeline: str,
        role: OwnerRole,
        partition: int,
        *,
        directory: Path,
        outage_deadline_s: float,
        apart: tuple[str, ...] = (),
    ) -> None:
        self._identity = f"{pipeline}/{role}/{partition}"
        self._keys = f"{PREFIX}:{{{self._identity}}}:"
        self.place = f"{connection.place} {self._keys}*"
        self._connection = connection
        self._directory = directory
        self._outage_deadline_s = outage_deadline_s
        self._apart = apart
        self._apart_file: ApartFile | None = None
        self._lock = asyncio.Lock()
        self._claim = 0
        """Ours; 0: this is no owner."""
        self._token = ""
        """Of the checkpoint that was loaded or saved last."""
        self._unsaved: dict[str, bytes | None] = {}
        self._attempt: _Attempt | None = None
        self._versions = {name: version(name) for name in ("headrace", "river")}

    # -- the protocol ------------------------------------------------------------------------------

    async def fence(self, *, above: int = 0) -> int:
        """Become the owner, by compare-and-set; remove what an older owner has staged."""
        async with self._lock:
            return await self._patiently(lambda: self._fence(above))

    async def load(self) -> Checkpoint | None:
        """Read the last checkpoint, and copy what is kept apart.

        If the last one is damaged and the one before is not, an owner goes back to that.
        """
        async with self._lock:
            return await self._patiently(self._load)

    async def look(self) -> Head:
        """Return the claim and the meta of the store."""
        head = await self._patiently(self._head)
        return Head(head.claim, None if head.current is None else head.current.meta)

    async def save(self, claim: int, meta: bytes, delta: Mapping[str, bytes | None]) -> None:
        """Write a checkpoint.

        Raises StoreUnavailableError where that cannot be done now: the last checkpoint is intact, and the
        next save writes this delta too.
        """
        async with self._lock:
            self._unsaved.update(delta)
            head = self._checked(await self._head(), claim)
            if self._attempt is not None and head.token == self._attempt.token:
                await self._committed(self._attempt)  # its answer was lost
            attempt = await self._begin(head, claim)
            self._attempt = None
            await self._merge(head, claim)
            await self._commit(head, claim, meta, attempt)

    def stored(self, prefix: str) -> Apart:
        """Return entries that are kept apart, of what was loaded last and the checkpoints since."""
        return Apart(self._query_apart, self._corrupt, prefix)

    def _query_apart(self, statement: str, parameters: tuple[Any, ...]) -> list[Any]:
        if self._apart_file is None:
            self._apart_file = ApartFile(self._directory)
        return self._apart_file.query(statement, parameters)

    async def close(self) -> None:
        """Close the connection, and the file of what is kept apart."""
        await self._connection.close()
        if self._apart_file is not None:
            self._apart_file.close()
            self._apart_file = None

    # -- claiming ----------------------------------------------------------------------------------

    async def _fence(self, above: int) -> int:
        for _ in range(RACES_MAX):
            head = await self._head()
            claim = max(head.claim, above) + 1
            seal = self._seal("owner", claim)
            if await self._connection.script(scripts.FENCE, [self._key("head")], [head.claim, claim, seal]):
                break
        else:
            raise ClaimError(
                f"{self._identity} was claimed by another owner {RACES_MAX} times",
                hint="is a second deployment of this pipeline running against the same store?",
            )
        self._unsaved.clear()
        self._attempt = None
        head = await self._head()
        self._claim, self._token = claim, head.token
        if head.claim == claim and head.staged:
            await self._begin(head, claim)
        return claim

    def _checked(self, head: _Head, claim: int) -> _Head:
        """Return the head if this owner may go on from it.  Raises ClaimError."""
        if head.claim != claim:
            raise ClaimError(
                f"{self._identity} belongs to claim {head.claim}, this owner's is {claim}",
                hint="another worker took the partition over; this one must stop writing to it",
            )
        if head.token != self._token and (self._attempt is None or head.token != self._attempt.token):
            raise ClaimError(
                f"{self.place} holds another checkpoint (number {head.number}) than the one that this owner"
                " goes on from: the store went back",
                hint="nothing to do: it claims again; look for a failover or a restored backup of the Redis",
            )
        return head

    # -- writing -----------------------------------------------------------------------------------

    async def _begin(self, head: _Head, claim: int) -> str:
        """Begin an attempt to write the next checkpoint, and return its name; what others staged goes."""
        attempt = token_hex(8)
        keys = self._chunk_keys(head.number + 1, head.staged)
        await self._run(scripts.ATTEMPT, keys, claim, attempt, head.staged)
        return attempt

    async def _committed(self, attempt: _Attempt) -> None:
        self._token = attempt.token
        missing = object()
        for name, value in attempt.delta.items():
            if self._unsaved.get(name, missing) == value:
                del self._unsaved[name]
        if self._apart_file is not None:
            apart = {name: value for name, value in attempt.delta.items() if name.startswith(self._apart)}
            await asyncio.to_thread(self._apart_file.write, apart)

    async def _merge(self, head: _Head, claim: int) -> None:
        """Move the delta of the previous checkpoint into the base: the last one will be the previous."""
        previous = head.previous
        if previous is None or head.merged >= previous.number:
            return
        for at in range(head.merged_chunks, previous.chunks):
            last = at + 1 == previous.chunks
            done = (previous.number, 0) if last else (previous.number - 1, at + 1)
            keys = [self._delta_key(previous.number, at), self._key("base")]
            if await self._run(scripts.MERGE, keys, claim, *done):
                continue
            now = await self._head()  # an earlier call may have been carried out late
            if (now.merged, now.merged_chunks) < done:
                raise self._corrupt(f"chunk {at} of delta {previous.number} is not there")

    async def _commit(self, head: _Head, claim: int, meta: bytes, name: str) -> None:
        delta = self._unsaved.copy()
        number = head.number + 1
        staged = entries = total = 0
        for packed, count, checksums in scripts.chunks(delta):
            key = self._delta_key(number, staged)
            staged, entries, total = staged + 1, entries + count, total + checksums
            await self._run(scripts.STAGE, [key], claim, name, staged, packed)
        now_ms = time.time_ns() // 1_000_000
        record = msgspec.msgpack.encode(
            _Record(FORMAT, number, claim, meta, self._token, staged, entries, total, now_ms, self._versions)
        )
        attempt = self._attempt = _Attempt(self._seal("record", record), delta)
        keys = self._chunk_keys(number, staged)
        found = await self._run(scripts.COMMIT, keys, claim, name, entries, record, attempt.token)
        self._attempt = None
        if found != b"OK":
            raise StoreUnavailableError(
                f"{self.place}: {entries} entries were staged, {found} are there",
                hint="set maxmemory-policy noeviction: a store of checkpoints must not lose keys",
            )
        await self._committed(attempt)

    # -- reading -----------------------------------------------------------------------------------

    async def _head(self) -> _Head:
        found = dict(zip(_HEAD, await self._connection.fields(self._key("head"), _HEAD), strict=True))
        try:
            numbers = {name: int(found[name] or 0) for name in ("claim", "staged", "merged", "merged_chunks")}
            base = (int(found["base_rows"] or 0), int(found["base_total"] or 0))
            token = (found["token"] or b"").decode()
            if numbers["staged"] > STAGED_MAX:
                raise ValueError  # noqa: TRY301 - as of any other number that is none
        except ValueError:
            raise self._corrupt("its head is damaged") from None
        seal = self._seal("owner", numbers["claim"]).encode() if numbers["claim"] else None
        if found["claim_seal"] != seal:
            raise self._corrupt("the owner's number does not match its seal")
        if token and found["current"] is None:
            raise self._corrupt("its head has lost the record of the last checkpoint")
        current = self._record(found["current"], token)
        previous = None if current is None else self._record(found["previous"], current.before)
        return _Head(token=token, current=current, previous=previous, base=base, **numbers)

    def _record(self, data: bytes | None, token: str) -> _Record | None:
        if data is None:
            return None
        if self._seal("record", data) != token:
            raise self._corrupt("its head does not match its seal (damaged, or another partition's)")
        (found, *_) = msgspec.msgpack.decode(data)
        if found != FORMAT:
            raise CheckpointError(
                f"{self.place} has format {found}, this Headrace reads {FORMAT}",
                hint="run the Headrace that wrote it, or start anew with another store",
            )
        return msgspec.msgpack.decode(data, type=_Record)

    async def _load(self) -> Checkpoint | None:
        gone_back = ""
        for _ in range(READS_MAX):
            head = await self._head()
            try:
                found = await self._read(head)
            except _DamagedError as damage:
                if await self._head() == head:
                    await self._go_back(head, damage)
                    gone_back = str(damage)
            else:
                if await self._head() == head:
                    self._token = head.token
                    return found and found._replace(damage=gone_back)
        raise StoreUnavailableError(
            f"{self.place} was written {READS_MAX} times while it was read",
            hint="read it when its owner is idle, or let a worker take it over",
        )

    async def _read(self, head: _Head) -> Checkpoint | None:
        """Read base and deltas; raise _DamagedError for what is not, or no longer, as it was written."""
        if self._apart_file is not None:
            self._apart_file.close()
            self._apart_file = None
        if self._apart:
            self._apart_file = ApartFile(self._directory)
        if head.current is None:
            return None
        await self._check_merged(head)
        restored = _Restored(self._apart, self._apart_file)
        records = [each for each in (head.previous, head.current) if each and each.number > head.merged]
        reading = Reading(self.place, head.base[0] + sum(record.entries for record in records))
        await self._read_base(restored, reading)
        rows, total = await restored.tally()
        if (rows, total % scripts.BASE_SUM_MODULUS) != head.base:
            raise _DamagedError(f"{rows} entries were found in the base, {head.base[0]} were written")
        for record in records:
            first = head.merged_chunks if record.number == head.merged + 1 else 0
            await self._read_delta(record, first, restored, reading)
        return Checkpoint(head.current.claim, head.current.meta, restored.entries)

    async def _check_merged(self, head: _Head) -> None:
        """Raise CheckpointError where a delta lies beside the base that the head takes for a part of it.

        A merge moves a chunk and removes it at once, so the numbers of the head are wrong then, or it has
        lost the record of that delta.  Of a head as a save leaves it no delta is asked for.
        """
        for number in (head.number - 1, head.number):
            begun = number == head.merged + 1 and head.merged_chunks > 0
            lost = number == head.number - 1 > 0 and head.previous is None
            if number <= head.merged or begun or lost:
                key = self._delta_key(number, 0)
                if _entries(*await self._connection.script(scripts.READ_CHUNK, [key], [])):
                    raise self._corrupt(f"its head says that delta {number} is in the base, and it is not")

    async def _read_base(self, restored: _Restored, reading: Reading) -> None:
        """Read the base; while one part is looked at, Redis puts the next together."""

        def scan(cursor: bytes, count: int) -> asyncio.Task[list[bytes]]:
            call = self._connection.script(scripts.SCAN, [self._key("base")], [cursor, count])
            return asyncio.create_task(call)

        count = SCAN_ENTRIES_MIN
        asked = scan(b"0", count)
        while True:
            cursor, lengths, joined = await asked
            if joined:
                fitting = count * SCAN_BYTES // len(joined)
                count = max(SCAN_ENTRIES_MIN, min(SCAN_ENTRIES_MAX, 4 * count, fitting))
            if cursor != b"0":
                asked = scan(cursor, count)
                await asyncio.sleep(0)  # so that it is sent
            try:
                changes = _entries(lengths, joined)
                await restored.take(changes)
            except BaseException:
                await give_up(asked)
                raise
            reading.add(len(changes), len(joined))
            if cursor == b"0":
                return

    async def _read_delta(self, record: _Record, first: int, restored: _Restored, reading: Reading) -> None:
        entries = total = 0
        for at in range(first, record.chunks):
            keys = [self._delta_key(record.number, at)]
            lengths, joined = await self._connection.script(scripts.READ_CHUNK, keys, [])
            changes = _entries(lengths, joined)
            if not changes:
                raise _DamagedError(f"chunk {at} of delta {record.number} is not there")
            entries += len(changes)
            total += sum(checksum for _, value, checksum in changes if value is not None)
            await restored.take(changes)
            reading.add(len(changes), len(joined))
        if not first and (entries, total) != (record.entries, record.total):
            raise _DamagedError(
                f"{entries} entries of delta {record.number} were found, {record.entries} were written"
            )

    async def _go_back(self, head: _Head, damage: _DamagedError) -> None:
        """Make the previous checkpoint the last one.  Raises CheckpointError where this is no owner."""
        if not self._claim or head.claim != self._claim or head.previous is None or head.current is None:
            raise self._corrupt(str(damage))
        log.error(
            "the last checkpoint is damaged: going back to the one before",
            place=self.place,
            reason=str(damage),
            number=head.current.number,
            previous=head.previous.number,
        )
        self._token = head.token
        keys = self._chunk_keys(head.number, head.current.chunks)
        await self._run(scripts.GO_BACK, keys, self._claim, head.current.before)

    # -- calls -------------------------------------------------------------------------------------

    async def _run(self, script: str, keys: list[str], claim: int, *arguments: bytes | str | int) -> Any:
        """Run a guarded script.  Raises ClaimError where the guard says no."""
        keys = [self._key("head"), *keys]
        answer = await self._connection.script(script, keys, [claim, self._token, *arguments])
        if isinstance(answer, list):
            self._checked(await self._head(), claim)
            raise StoreUnavailableError(
                f"{self.place} has changed while it was written", hint="nothing to do: it is tried again"
            )
        return answer

    async def _patiently(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """Make a call again until the store can be used, up to the deadline for an outage."""
        deadline_s = time.monotonic() + self._outage_deadline_s
        waiting = False
        while True:
            try:
                answer = await call()
            except StoreUnavailableError as error:
                if time.monotonic() + PAUSE_S > deadline_s:
                    raise
                if not waiting:
                    log.warning("waiting for the store", reason=error.message, for_s=self._outage_deadline_s)
                waiting = True
                await asyncio.sleep(PAUSE_S)
            else:
                return answer

    def _key(self, kind: str) -> str:
        return self._keys + kind

    def _delta_key(self, number: int, at: int) -> str:
        return self._key(f"delta:{number}:{at}")

    def _chunk_keys(self, number: int, count: int) -> list[str]:
        return [self._delta_key(number, at) for at in range(count)]

    def _seal(self, *parts: object) -> str:
        return seal_of(self._identity, *parts).hex()

    def _corrupt(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self.place} cannot be trusted: {what}",
            hint="restore a backup of the Redis, however old, or delete these keys: the logs fill the gap",
        )


class _Restored:
    """What a load has read so far: entries in memory, and those kept apart in their file."""

    def __init__(self, apart: tuple[str, ...], file: ApartFile | None) -> None:
        self.entries: dict[str, bytes] = {}
        self._total = 0
        """Of the checksums of what was new here: of all, before anything is laid over it."""
        self._apart = apart
        self._file = file

    async def take(self, changes: Sequence[_Change]) -> None:
        """Lay changes over what is there."""
        entries, apart = self.entries, self._apart
        aside: dict[str, bytes | None] = {}
        for name, value, checksum in changes:
            if apart and name.startswith(apart):
                aside[name] = value
            elif value is None:
                entries.pop(name, None)
            else:
                if name not in entries:  # Redis may hand an entry out twice
                    self._total += checksum
                entries[name] = value
        if self._file is not None:
            await asyncio.to_thread(self._file.write, aside)

    async def tally(self) -> tuple[int, int]:
        """Return how many entries of the base there are, and the sum of their checksums; before any delta."""
        rows, total = len(self.entries), self._total
        if self._file is not None:
            apart = await asyncio.to_thread(self._file.tally)
            rows, total = rows + apart.rows, total + apart.total
        return rows, total


def _entries(lengths: bytes, joined: bytes) -> list[_Change]:
    """Return the entries of an answer; raise _DamagedError for one that does not match its checksum."""
    entries: list[_Change] = []
    try:
        for name, value, checksum in scripts.unpacked(lengths, joined):
            if checksum < 0:
                entries.append((name.decode(), None, 0))
            elif crc32(value, crc32(name)) != checksum:
                raise _DamagedError(f"entry {name.decode()!r} does not match its checksum")
            else:
                entries.append((name.decode(), value, checksum))
    except (struct.error, UnicodeDecodeError) as error:
        raise _DamagedError(f"an entry is too short, or its name no text: {error}") from None
    return entries
