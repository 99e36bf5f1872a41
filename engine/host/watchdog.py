"""The end of a process that does not get on: it says what it waits for, and a supervisor starts it anew.

Lives here: looking at the worker once a second, the end.  Never here: what a standstill is
(`progress.py`).

Strategy.  Nothing is drained, since whatever stands may stand in a drain as well: the end is that of a crash,
after which the next start goes on from the last checkpoint.  A loop that does not turn at all cannot look at
itself; for that, each look sets the alarm of Python's own thread for such things anew (`faulthandler`), which
needs no lock of the interpreter: it prints where every thread stands, and ends the process with code 1.
"""

from __future__ import annotations

import asyncio
import faulthandler
import time
from collections.abc import Callable

import structlog

from engine.host.progress import Stall
from engine.worker.loop import Worker
from topics.errors import BrokerError

__all__ = ["watch"]

LOOK_S = 1.0

log = structlog.get_logger("headrace")


async def watch(worker: Worker, deadline_ms: int, end: Callable[[Stall], None]) -> None:
    """Look at the worker until cancelled; call `end` where its work has stood still for the deadline."""
    deadline_s = deadline_ms / 1000
    asking: asyncio.Task[None] | None = None
    asked_s = time.monotonic()
    try:
        while True:
            faulthandler.dump_traceback_later(deadline_s, exit=True)
            await asyncio.sleep(min(LOOK_S, deadline_s / 4))
            now_s = time.monotonic()
            if (stall := worker.progress.look(now_s, worker.seen())) is not None:
                end(stall)
                return
            # What a fetch that brings nothing knows of the logs is as old as the last one that did.
            if now_s - asked_s >= deadline_s / 2 and (asking is None or asking.done()):
                asked_s = now_s
                asking = asyncio.create_task(_look_at_ends(worker))
    finally:
        faulthandler.cancel_dump_traceback_later()
        if asking is not None:
            asking.cancel()


async def _look_at_ends(worker: Worker) -> None:
    """Ask where the logs end, for as long as it takes: a broker that is away is waited for elsewhere."""
    try:
        await worker.look_at_ends()
    except BrokerError as error:
        log.warning("the ends of the logs cannot be had", reason=str(error))
