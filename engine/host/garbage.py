"""The garbage collector's schedule: rare, because it holds up events.

Lives here: when objects that refer to each other are searched for.  Never here: what is kept.

An event makes some ten containers, and reference counting frees them all: nothing on its way refers back to
itself.  The collector does not know that and searches after every 700 of them, which takes a thirtieth of
the time of job J; a search through all that was restored from a checkpoint holds the loop for 100 ms.
"""

from __future__ import annotations

import gc

__all__ = ["search_rarely"]

NEW_MAX = 20_000
"""Containers made and not freed since the last search that start one: about 5 MB."""


def search_rarely() -> None:
    """Collect garbage now, exempt what is left from later collections, and collect new garbage less often.

    For a process that begins to take events, and again when it has loaded much that will stay.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_MAX, *gc.get_threshold()[1:])
