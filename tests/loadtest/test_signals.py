"""A signal ends a command wherever it meets it."""

from __future__ import annotations

import signal
import sys
import time
import weakref
from collections.abc import Iterator

import pytest

from loadtest.signals import interrupted_by_signals

DEADLINE_S = 10.0


@pytest.fixture(autouse=True)
def in_the_foreground() -> Iterator[None]:
    """A shell lets what it starts in the background ignore SIGINT, and so would Python."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Referred:
    """Something that a weak reference can point to."""


def lost_in_a_callback(number: signal.Signals) -> None:
    """Send a signal where Python drops what its handler raises, and wait."""
    kept = Referred()
    reference = weakref.ref(kept, lambda _: signal.raise_signal(number))
    with interrupted_by_signals():
        del kept
        assert reference() is None
        time.sleep(DEADLINE_S)


def sent_at_once() -> None:
    with interrupted_by_signals():
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_where_python_drops_exceptions_is_raised_again(number: signal.Signals) -> None:
    hook, handler = sys.unraisablehook, signal.getsignal(signal.SIGTERM)
    alarm_s, _ = signal.getitimer(signal.ITIMER_REAL)
    with pytest.raises(KeyboardInterrupt):
        lost_in_a_callback(number)
    assert sys.unraisablehook is hook
    assert signal.getsignal(signal.SIGTERM) is handler
    assert bool(signal.getitimer(signal.ITIMER_REAL)[0]) is bool(alarm_s), (
        "somebody else's alarm is left alone"
    )


def test_a_signal_elsewhere_is_raised_at_once() -> None:
    with pytest.raises(KeyboardInterrupt):
        sent_at_once()
