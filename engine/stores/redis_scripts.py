"""What a Redis does in one step with the keys of a partition.

Lives here: the scripts of `redis_checkpoints.py`, and how entries are packed for them.  Never here: in which
order they run.

KEYS[1] is the head.  A script that changes anything else begins with the guard: it does nothing, and
returns what the head says, unless claim and token are those that its caller knows.  None takes longer than
the work on one chunk of entries, which is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from struct import Struct
from zlib import crc32

import msgspec

__all__ = [
    "ATTEMPT",
    "BASE_SUM_MODULUS",
    "CHUNK_BYTES_MAX",
    "CHUNK_ENTRIES_MAX",
    "COMMIT",
    "FENCE",
    "GO_BACK",
    "MERGE",
    "READ_CHUNK",
    "SCAN",
    "STAGE",
    "chunks",
    "unpacked",
]

CHUNK_ENTRIES_MAX = 500
"""Entries that one script writes."""
CHUNK_BYTES_MAX = 262_144
"""Bytes that one script writes, plus one entry."""
BASE_SUM_MODULUS = 2**50
"""Lua's numbers are exact up to 2**53, and a chunk's checksums add up to less than 2**42."""

_GUARD = """
local head = redis.call('HMGET', KEYS[1], 'claim', 'token')
if head[1] ~= ARGV[1] or (head[2] or '') ~= ARGV[2] then return {head[1] or '0', head[2] or ''} end
"""
FENCE = """
local owner = redis.call('HGET', KEYS[1], 'claim') or '0'
if owner ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'claim', ARGV[2], 'claim_seal', ARGV[3])
return 1
"""
"""Take the claim number ARGV[2] if ARGV[1] is the last: 1, or 0."""
ATTEMPT = f"""{_GUARD}
if (redis.call('HGET', KEYS[1], 'staged') or '0') ~= ARGV[4] then return {{ARGV[1], ARGV[2]}} end
for at = 2, #KEYS do redis.call('UNLINK', KEYS[at]) end
redis.call('HSET', KEYS[1], 'attempt', ARGV[3], 'staged', '0')
return 1
"""
"""Begin the attempt ARGV[3]; remove the ARGV[4] chunks that an earlier one has staged.

A call whose answer was not waited for may still lie in a server that hangs, and be carried out at any time:
what it stages and commits for an earlier attempt does nothing.
"""
_ATTEMPT_GUARD = f"""{_GUARD}
if redis.call('HGET', KEYS[1], 'attempt') ~= ARGV[3] then return {{ARGV[1], ARGV[2]}} end
"""
STAGE = f"""{_ATTEMPT_GUARD}
local packed, at, count, fields = ARGV[5], 1, 0, {{}}
redis.call('UNLINK', KEYS[2])
while at <= #packed do
  fields[count + 1], fields[count + 2], at = struct.unpack('>I4c0I4c0', packed, at)
  count = count + 2
end
redis.call('HSET', KEYS[2], unpack(fields))
redis.call('HSET', KEYS[1], 'staged', ARGV[4])
return 1
"""
"""Write a chunk, the ARGV[4]th of its checkpoint, beside what counts."""
COMMIT = f"""{_ATTEMPT_GUARD}
local count = 0
for at = 2, #KEYS do count = count + redis.call('HLEN', KEYS[at]) end
if count ~= tonumber(ARGV[4]) then return count end
local before = redis.call('HGET', KEYS[1], 'current')
if before then redis.call('HSET', KEYS[1], 'previous', before) end
redis.call('HSET', KEYS[1], 'current', ARGV[5], 'token', ARGV[6], 'staged', '0')
return 'OK'
"""
"""Make what was staged count, if all of it is there; its cost is that of counting chunks."""
MERGE = f"""{_GUARD}
local chunk = redis.call('HGETALL', KEYS[2])
if #chunk == 0 then return 0 end
local names, written, gone = {{}}, {{}}, {{}}
local sums = redis.call('HMGET', KEYS[1], 'base_rows', 'base_total')
local rows, total = tonumber(sums[1] or '0'), tonumber(sums[2] or '0')
for at = 1, #chunk, 2 do
  names[#names + 1] = chunk[at]
  if chunk[at + 1] == '' then
    gone[#gone + 1] = chunk[at]
  else
    written[#written + 1], written[#written + 2] = chunk[at], chunk[at + 1]
    rows, total = rows + 1, total + struct.unpack('>I4', chunk[at + 1])
  end
end
for _, old in ipairs(redis.call('HMGET', KEYS[3], unpack(names))) do
  if old then rows, total = rows - 1, total - struct.unpack('>I4', old) end
end
if #gone > 0 then redis.call('HDEL', KEYS[3], unpack(gone)) end
if #written > 0 then redis.call('HSET', KEYS[3], unpack(written)) end
redis.call('HSET', KEYS[1], 'base_rows', string.format('%.0f', rows),
           'base_total', string.format('%.0f', total % {BASE_SUM_MODULUS}),
           'merged', ARGV[3], 'merged_chunks', ARGV[4])
redis.call('UNLINK', KEYS[2])
return 1
"""
"""Move a chunk into the base; ARGV[3] and ARGV[4] say how far the base has come with it."""
GO_BACK = f"""{_GUARD}
local previous = redis.call('HGET', KEYS[1], 'previous')
redis.call('HSET', KEYS[1], 'current', previous, 'token', ARGV[3], 'staged', '0')
redis.call('HDEL', KEYS[1], 'previous')
for at = 2, #KEYS do redis.call('UNLINK', KEYS[at]) end
return 1
"""
"""Make the previous checkpoint the last one."""
_LENGTHS = """
local lengths = {}
for at = 1, #found do lengths[at] = #found[at] end
"""
SCAN = f"""
local answer = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local found = answer[2]
{_LENGTHS}
return {{answer[1], cmsgpack.pack(lengths), table.concat(found)}}
"""
"""Return the next cursor and some ARGV[2] entries from cursor ARGV[1] on: lengths, and names and values."""
READ_CHUNK = f"""
local found = redis.call('HGETALL', KEYS[1])
{_LENGTHS}
return {{cmsgpack.pack(lengths), table.concat(found)}}
"""
"""Return all entries of a chunk, as `SCAN` does."""

_LENGTH = Struct(">I")
_LENGTHS_DECODER = msgspec.msgpack.Decoder(list[int])


def chunks(delta: Mapping[str, bytes | None]) -> Iterator[tuple[bytes, int, int]]:
    """Pack a delta for `STAGE`; yield chunks with how many entries each has and the sum of their checksums.

    An entry that stays is its checksum (CRC-32 of name and value, four bytes) and its value; one that goes is
    empty.
    """
    pack = _LENGTH.pack
    parts: list[bytes] = []
    count = size = total = 0
    for text, value in delta.items():
        name = text.encode()
        if value is None:
            parts += (pack(len(name)), name, b"\0\0\0\0")
            size += len(name)
        else:
            checksum = crc32(value, crc32(name))
            parts += (pack(len(name)), name, pack(len(value) + 4), pack(checksum), value)
            size += len(name) + len(value)
            total += checksum
        count += 1
        if count == CHUNK_ENTRIES_MAX or size > CHUNK_BYTES_MAX:
            yield b"".join(parts), count, total
            parts, count, size, total = [], 0, 0, 0
    if parts:
        yield b"".join(parts), count, total


def unpacked(lengths: bytes, joined: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """Yield name, value and checksum of the entries of an answer; a checksum of -1: the entry goes.

    >>> lengths = msgspec.msgpack.encode([1, 5, 1, 0])
    >>> list(unpacked(lengths, b"a" + bytes(3) + b"\x07" + b"1" + b"b"))
    [(b'a', b'1', 7), (b'b', b'', -1)]
    """
    length, at = _LENGTH.unpack_from, 0
    sizes = iter(_LENGTHS_DECODER.decode(lengths))
    for name_size, size in zip(sizes, sizes, strict=True):
        begins = at + name_size
        ends = begins + size
        if size:
            yield joined[at:begins], joined[begins + 4 : ends], length(joined, begins)[0]
        else:
            yield joined[at:begins], b"", -1
        at = ends
