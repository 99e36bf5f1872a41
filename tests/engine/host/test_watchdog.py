"""A process whose loop does not turn at all is ended too, and says where it stands."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from typing import Any

import pytest
import structlog
from paths import CHECKOUT

import engine.host.watchdog
from engine.host.progress import ProgressWatch, Seen, Stall
from engine.host.watchdog import watch
from topics.errors import BrokerError

HANGS = """
import asyncio, time
from types import SimpleNamespace
from engine.host.progress import ProgressWatch, Seen
from engine.host.watchdog import watch

def a_model_that_never_returns():
    time.sleep(600)

async def main():
    worker = SimpleNamespace(progress=ProgressWatch(1.0, takeover_s=0.0), seen=Seen, look_at_ends=None)
    watching = asyncio.create_task(watch(worker, 1_000, print))
    await asyncio.sleep(0.1)
    a_model_that_never_returns()

asyncio.run(main())
"""
ENDS_WITHIN_S = 60.0


class Worker:
    """A worker whose fetches bring nothing; the ends of its logs say that there is something."""

    def __init__(self, deadline_s: float, *, broker_refuses: bool = False) -> None:
        self.progress = ProgressWatch(deadline_s, takeover_s=0.0)
        self._unread = 0
        self._refuses = broker_refuses
        self._asked = 0
        self.asked_twice = asyncio.Event()

    def seen(self) -> Seen:
        return Seen(unread=self._unread)

    async def look_at_ends(self) -> None:
        self._asked += 1
        if self._asked == 2:
            self.asked_twice.set()
        if self._refuses:
            raise BrokerError("asking for the bounds of logs: no", hint="")
        self._unread = 7


def test_what_no_fetch_tells_is_asked_for_and_then_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.host.watchdog, "faulthandler", _NoAlarm)
    worker: Any = Worker(0.4)
    ends: list[Stall] = []
    asyncio.run(asyncio.wait_for(watch(worker, 400, ends.append), ENDS_WITHIN_S))
    (stall,) = ends
    assert (stall.subject, stall.waits_for, stall.seen.unread) == ("answers", "broker", 7)


def test_a_broker_that_refuses_to_tell_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.host.watchdog, "faulthandler", _NoAlarm)
    worker: Any = Worker(0.2, broker_refuses=True)

    async def until_it_has_asked_twice() -> None:
        watching = asyncio.create_task(watch(worker, 200, lambda _: None))
        async with asyncio.timeout(ENDS_WITHIN_S):
            await worker.asked_twice.wait()
        assert not watching.done()
        watching.cancel()
        await asyncio.wait({watching})

    with structlog.testing.capture_logs() as lines:
        asyncio.run(until_it_has_asked_twice())
    assert {line["event"] for line in lines} == {"the ends of the logs cannot be had"}


class _NoAlarm:
    """This process must not be ended by a slow machine."""

    @staticmethod
    def dump_traceback_later(_: float, *, exit: bool) -> None:  # noqa: A002
        assert exit

    @staticmethod
    def cancel_dump_traceback_later() -> None:
        pass


def test_a_loop_that_never_turns_again_ends_the_process_and_says_where_it_stands() -> None:
    began_s = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", HANGS],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=ENDS_WITHIN_S,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    assert "Timeout (0:00:01)!" in ended.stderr
    assert "a_model_that_never_returns" in ended.stderr
    assert time.monotonic() - began_s < ENDS_WITHIN_S
