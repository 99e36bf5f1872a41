"""A worker that fails where it is told to: `python -m fault_runs.worker run PIPELINE.py`, for tests alone.

`FAULT_DIRECTORY` names a directory with up to three files, read whenever they could matter:

    point    `SIGKILL 2 after flush`: at the second pass of this point from now on, send itself the signal
    clock    seconds by which its wall clock is off
    broken   what is left out: `suppression`, a step of a takeover, from the start on; `fetches`, records of
             the group's topics, from now on

The product knows nothing of this: what it calls at these points is wrapped here before it starts.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fault_runs.schedule import INSIDE_CLAIM, INSIDE_SAVE, POINTS

DIRECTORY = "FAULT_DIRECTORY"
_real_time, _real_time_ns = time.time, time.time_ns


class Faults:
    """What the directory says now."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self, name: str) -> str:
        """Return the text of a file; empty where there is none."""
        try:
            return (self._directory / name).read_text()
        except FileNotFoundError:
            return ""

    def passes(self, point: str) -> None:
        """Fail if this is the point, and the pass, that was asked for."""
        assert point in (*POINTS, INSIDE_CLAIM, INSIDE_SAVE)
        how, left, asked = (*self.read("point").split(" ", 2), "", "")[:3]
        if asked != point:
            return
        if int(left) > 1:
            (self._directory / "point").write_text(f"{how} {int(left) - 1} {point}")
            return
        (self._directory / "point").unlink()
        sys.stderr.write(json.dumps({"event": "fault point", "point": point, "how": how}) + "\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.Signals[how])

    def refused(self, point: str, error: Exception) -> None:
        """Tell that what was begun before this point has come to nothing."""
        sys.stderr.write(json.dumps({"event": "refused", "point": point, "reason": str(error)}) + "\n")
        sys.stderr.flush()


def wrapped(
    owner: Any,
    name: str,
    *,
    before: Callable[..., None] | None = None,
    after: Callable[..., None] | None = None,
) -> None:
    """Call `before` and `after` with the arguments of an asynchronous method, around it."""
    method: Callable[..., Awaitable[Any]] = getattr(owner, name)

    @functools.wraps(method)
    async def call(*arguments: Any, **options: Any) -> Any:
        if before is not None:
            before(*arguments)
        answer = await method(*arguments, **options)
        if after is not None:
            after(*arguments)
        return answer

    setattr(owner, name, call)


def install_points(faults: Faults) -> None:
    """Make every point of `POINTS` one where the worker may fail."""
    from engine.kafka.source import Source
    from engine.worker.checkpointing import CheckpointWriter
    from engine.worker.claim import ClaimExecutor
    from engine.worker.follower import Follower
    from operators.claims.takeover import Fence, WriteClaim

    def carried_out(_: Any, request: Any, *__: Any) -> None:
        if isinstance(request, Fence):
            faults.passes("after fence")
        elif isinstance(request, WriteClaim) and request.value.claim > 0:  # an announcement is none yet
            faults.passes("after claims" if request.target == "predictions" else "between claims")

    wrapped(ClaimExecutor, "_carry_out", after=carried_out)
    wrapped(CheckpointWriter, "_write", before=lambda *_: faults.passes("before flush"))
    check_written = Follower.check_written

    def checked(follower: Any, *arguments: Any) -> None:
        faults.passes("after flush")
        check_written(follower, *arguments)

    Follower.check_written = checked  # type: ignore[method-assign]
    wrapped(ClaimExecutor, "still_owner", after=lambda *_: faults.passes("between look and save"))
    wrapped(Follower, "save", before=lambda *_: faults.passes("between saves"))
    wrapped(Source, "commit", before=lambda *_: faults.passes("after save"))


def install_points_inside(faults: Faults) -> None:
    """Make the middle of a claim and of a save, in either store, a point where the worker may fail.

    In a file: all is written and nothing is committed.  In a Redis: the head was read, and the claim is not
    compared yet; or the delta is staged, and the script that commits it is not called yet.
    """
    from engine.stores.files.checkpoint_file import CheckpointFile
    from engine.stores.redis_checkpoints import RedisCheckpoints
    from engine.stores.redis_connection import StoreConnection
    from engine.stores.redis_scripts import COMMIT, FENCE
    from topics.errors import ClaimError

    own, write, script = CheckpointFile.own, CheckpointFile.write, StoreConnection.script
    run = RedisCheckpoints._run

    def owned(file: Any, *arguments: Any) -> None:
        own(file, *arguments)
        faults.passes(INSIDE_CLAIM)

    def written(file: Any, *arguments: Any) -> bytes:
        seal = write(file, *arguments)
        faults.passes(INSIDE_SAVE)
        return seal

    async def called(connection: Any, text: str, *arguments: Any) -> Any:
        if text == FENCE:
            faults.passes(INSIDE_CLAIM)
        return await script(connection, text, *arguments)

    async def committed(store: Any, text: str, *arguments: Any) -> Any:
        if text != COMMIT:
            return await run(store, text, *arguments)
        faults.passes(INSIDE_SAVE)
        try:
            return await run(store, text, *arguments)
        except ClaimError as error:
            faults.refused(INSIDE_SAVE, error)
            raise

    CheckpointFile.own = owned  # type: ignore[method-assign]
    CheckpointFile.write = written  # type: ignore[method-assign]
    StoreConnection.script = called  # type: ignore[method-assign]
    RedisCheckpoints._run = committed  # type: ignore[method-assign]


def install_silence(faults: Faults) -> None:
    """Let fetches bring nothing while that is asked for, and nothing else tell of it."""
    from aiokafka import AIOKafkaConsumer

    getmany = AIOKafkaConsumer.getmany

    async def fetched(consumer: Any, *partitions: Any, timeout_ms: int = 0, **options: Any) -> Any:
        if consumer._group_id is None or faults.read("broken") != "fetches":
            return await getmany(consumer, *partitions, timeout_ms=timeout_ms, **options)
        await asyncio.sleep(timeout_ms / 1000)
        return {}

    AIOKafkaConsumer.getmany = fetched


def leave_suppression_out() -> None:
    """Leave out what keeps a new owner from answering again what is logged already."""
    from engine.worker.claim import ClaimExecutor
    from operators.claims.rule import Suppression
    from operators.claims.takeover import Takeover

    run = ClaimExecutor.run

    async def forgetful(*arguments: Any) -> Any:
        taken = await run(*arguments)
        if isinstance(taken, Takeover):
            return dataclasses.replace(taken, suppression=Suppression())
        return taken

    ClaimExecutor.run = forgetful  # type: ignore[method-assign]


def main() -> None:
    """Run Headrace's command with faults."""
    faults = Faults(Path(os.environ[DIRECTORY]))

    def off_s() -> float:
        return float(faults.read("clock") or 0.0)

    time.time = lambda: _real_time() + off_s()
    time.time_ns = lambda: _real_time_ns() + int(off_s() * 1e9)
    install_points(faults)
    install_points_inside(faults)
    install_silence(faults)
    if faults.read("broken") == "suppression":
        leave_suppression_out()
    from headrace.__main__ import main as headrace

    headrace()


if __name__ == "__main__":
    main()
