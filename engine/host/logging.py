"""The log of a worker: structlog for our own lines and, through it, everybody else's.

Lives here: the renderer (console on a terminal, JSON otherwise), whose chatter is let through,
and how often.  Never here: a log line; and nowhere one per event.

Libraries repeat themselves: aiokafka writes 170 lines a second while its broker is away.  Of
equal lines of theirs one is shown every ten seconds, with the number of those left out.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections import OrderedDict
from collections.abc import Callable

import structlog

from engine.settings import Settings

__all__ = ["Repeats", "configure_logging"]

CHATTY = ("faust", "mode", "aiokafka", "kafka")
"""Libraries whose INFO lines are about their own workings; only their warnings are shown."""
REPEATED_EVERY_S = 10.0
"""Often enough to see that it goes on."""
REMEMBERED_MAX = 256
"""Different lines within that time; the one that was quiet longest is forgotten first."""


class Repeats(logging.Filter):
    """A log filter: of equal lines of a library one passes every ten seconds, with a count of the rest.

    Lines are equal if logger, level and text are, numbers apart: correlation ids and offsets grow.
    The count comes with the next line that is shown.

    >>> line = logging.makeLogRecord({"name": "aiokafka.conn", "msg": "no broker at %s", "args": ("b:1",)})
    >>> now = iter([0.0, 1.0, 2.0, 10.0])
    >>> repeats = Repeats(clock=lambda: next(now))
    >>> [bool(repeats.filter(line)) for _ in range(4)]
    [True, False, False, True]
    >>> line.getMessage()
    'no broker at b:1 (2 more like it left out)'
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._shown: OrderedDict[tuple[str, int, str], tuple[float, int]] = OrderedDict()
        """Line -> when it was last shown, and how many have been left out since."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to show a record; the count is added to its message."""
        if record.name.partition(".")[0] not in CHATTY:
            return True
        message = record.getMessage()
        line = record.name, record.levelno, _NUMBERS.sub("#", message)
        now_s = self._clock()
        shown_s, left_out = self._shown.pop(line, (float("-inf"), 0))
        shows = now_s - shown_s >= REPEATED_EVERY_S
        self._shown[line] = (now_s, 0) if shows else (shown_s, left_out + 1)
        if len(self._shown) > REMEMBERED_MAX:
            self._shown.popitem(last=False)
        if shows and left_out:
            record.msg, record.args = f"{message} ({left_out} more like it left out)", ()
        return shows


_NUMBERS = re.compile(r"\d+")


def configure_logging(settings: Settings) -> None:
    """Send every log record to stderr in one format."""
    console = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *([] if console else [structlog.processors.format_exc_info]),
                last,
            ],
        )
    )
    handler.addFilter(Repeats())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    quieter = max(logging.WARNING, root.level)
    for name in CHATTY:
        logging.getLogger(name).setLevel(quieter if settings.log_level != "debug" else logging.DEBUG)
