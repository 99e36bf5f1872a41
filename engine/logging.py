"""How a worker logs: structlog for our own lines and, through it, everybody else's.

Lives here: the renderer (console on a terminal, JSON otherwise) and whose chatter is let
through.  Never here: a log line; and nowhere one per event.
"""

from __future__ import annotations

import logging
import sys

import structlog

from engine.settings import Settings

__all__ = ["configure_logging"]

CHATTY = ("faust", "mode", "aiokafka", "kafka")
"""Libraries whose INFO lines tell about themselves; warnings of theirs are shown."""


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
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    quieter = max(logging.WARNING, root.level)
    for name in CHATTY:
        logging.getLogger(name).setLevel(quieter if settings.log_level != "debug" else logging.DEBUG)
