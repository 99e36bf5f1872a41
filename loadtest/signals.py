"""SIGTERM and SIGINT as KeyboardInterrupt, also where Python would drop it.

Lives here: the handlers while a command runs.  Never here: what is cleaned up on the way out.

Python drops an exception that is raised in a destructor or in the callback of a weak reference: a signal that
comes at such a moment is printed as "Exception ignored" and lost.  So a dropped KeyboardInterrupt is raised
once more, a moment later.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["AGAIN_S", "interrupted_by_signals"]

AGAIN_S = 0.05
"""How long after it was dropped an interrupt is raised again."""


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt in the block on SIGTERM as on SIGINT, and never lose it.

    For the main thread, outside of a loop that has signal handlers of its own.
    """
    handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    hook = sys.unraisablehook
    again: list[threading.Timer] = []
    main = threading.get_ident()

    def raise_again(dropped: Any) -> None:
        if isinstance(dropped.exc_value, KeyboardInterrupt):
            timer = threading.Timer(AGAIN_S, signal.pthread_kill, (main, signal.SIGTERM))
            again[:] = [timer]
            timer.start()
        else:
            hook(dropped)

    sys.unraisablehook = raise_again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for timer in again:
            timer.cancel()
            timer.join()  # no signal may come once its handler is the old one
        signal.signal(signal.SIGTERM, handler)
