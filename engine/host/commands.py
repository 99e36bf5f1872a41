"""The app of Faust: its agent reads the commands topic and hands each command to the worker.

Lives here: Faust's settings, the agent, what Faust is mended in.  Never here: what a command means (it acts,
or is refused, in the examples log), lifecycle (`app.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import faust
from faust.tables import TableManager
from faust.tables.recovery import Recovery

from engine.definition.pipeline import Pipeline
from engine.settings import KafkaSettings, Settings
from topics.messages import Headers

__all__ = ["commands_app"]

_LOG_OF_FAUST = logging.getLogger("faust")
"""What inherits from Faust's services would tell of itself as if it were ours."""


class _Recovery(Recovery):
    """What lets the agent read on after each rebalance, however long the broker is silent meanwhile.

    Faust waits one request's time for the committed offsets, and takes a wait that ran out for its own end:
    the task is over without a word, and no later rebalance lets the agent read again.
    """

    logger = _LOG_OF_FAUST

    async def _wait(self, coro: Any, timeout: Any = None) -> None:  # noqa: ARG002, ASYNC109 - as Faust calls it
        """Wait until it is done, until the next rebalance or until the end."""
        await super()._wait(coro)


class _Tables(TableManager):
    """No table: Faust lets its agents read from here."""

    logger = _LOG_OF_FAUST

    @property
    def recovery(self) -> Recovery:
        """The service that resumes reading."""
        if self._recovery is None:
            self._recovery = _Recovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery


def commands_app(
    pipeline: Pipeline,
    settings: Settings,
    ask: Callable[[bytes, Headers], Awaitable[None]],
    port: int,
) -> Any:
    """Return the app; `port` is in what Faust's clients tell each other, and nothing of Faust listens.

    `ask` is awaited with each command's bytes and headers.
    """
    kafka = settings.kafka
    app = faust.App(
        f"{pipeline.name}-control",
        loop=asyncio.get_event_loop(),
        broker=[f"kafka://{server.strip()}" for server in kafka.bootstrap_servers.split(",")],
        broker_credentials=_credentials(kafka),
        broker_session_timeout=kafka.session_timeout_ms / 1000,
        broker_heartbeat_interval=kafka.heartbeat_interval_ms / 1000,
        broker_request_timeout=kafka.request_timeout_ms / 1000,
        broker_rebalance_timeout=kafka.rebalance_timeout_ms / 1000,
        consumer_auto_offset_reset="earliest",
        topic_disable_leader=True,
        store="memory://",
        TableManager=_Tables,
        datadir=settings.state_dir / "faust",
        web_enabled=False,
        web_host=settings.web.host,
        web_port=port,
        env_prefix="HEADRACE_FAUST_",
        autodiscover=False,
        stream_ack_exceptions=False,
    )
    commands = app.topic(
        pipeline.catalog["commands"], value_type=bytes, value_serializer="raw", key_type=bytes, internal=False
    )

    @app.agent(commands)
    async def command(stream: Any) -> None:
        """Hand each command to the examples log; it acts, or is refused, there, at its offset."""
        async for event in stream.events():
            await ask(event.value or b"", tuple(event.headers.items()))

    return app


def _credentials(kafka: KafkaSettings) -> Any:
    options = kafka.aiokafka_options()
    if kafka.security_protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=options["sasl_plain_username"],
            password=options["sasl_plain_password"],
            ssl_context=options.get("ssl_context"),
            mechanism=kafka.sasl_mechanism,
        )
    if "ssl_context" in options:
        return faust.SSLCredentials(options["ssl_context"])
    return None
