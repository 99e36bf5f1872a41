"""The Faust host: lifecycle, web pages.

Lives here: what starts and stops the data plane, signals and the last deadline, what `/metrics`, `/livez` and
`/readyz` say.  Never here: events (aiokafka carries them, `loop.py`), commands (`commands.py`), the numbers
(`metrics.py`), the page for people (`engine/page`), HTTP (`pages.py`: Faust's own server lets slow clients
stay, and adds pages).

Faust hosts and aiokafka carries, because Faust's own consumer is an order of magnitude
slower and its offset bookkeeping loses records after gaps (faust-streaming#606).  Faust
also hangs at exit and goes on answering "ok" when a service has died, so two things stand
outside it: a dead data plane ends the process at once with a non-zero code, and a thread
ends it when the drain deadline has passed.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import faust
import structlog
import uvloop

from engine.answering.predict import Predicting
from engine.definition.pipeline import Pipeline
from engine.host.commands import commands_app
from engine.host.logging import configure_logging
from engine.host.pages import EXPOSITION, AnyPage, Page, PageText, Question, check_port, serving
from engine.host.progress import Stall
from engine.host.watchdog import watch
from engine.kafka.embedded import free_port
from engine.metrics import Metrics
from engine.page.facts import PageFacts
from engine.page.site import page_of
from engine.settings import Accepted, Settings, WebSettings
from engine.worker.loop import Worker
from engine.worker.partition import Place
from topics.codec import BYTES_MAX
from topics.errors import HeadraceError, SettingsError

__all__ = ["run_worker"]

EXIT_AFTER_DRAIN_S = 5.0
"""Seconds that Faust gets to close its own clients once the data plane has drained."""
PORT_HINT = "set HEADRACE_WEB__PORT (and HEADRACE_WEB__HOST), or give --web-port; 0 takes a free port"

log = structlog.get_logger("headrace")


def run_worker(
    pipeline: Pipeline,
    settings: Settings,
    accepted: Accepted,
    skip: frozenset[Place] = frozenset(),
    *,
    file: Path | None = None,
) -> None:
    """Run one worker process until it is told to stop; never returns.  `file` is the pipeline's, if known.

    Exit code 0 after a clean drain, 1 if the data plane died or the deadline passed.  Raises SettingsError
    if the pages cannot be served or the state directory cannot be made.
    """
    configure_logging(settings)
    check_port(settings.web.host, settings.web.port, hint=PORT_HINT)
    _make_directory(settings.state_dir)
    # Not as the policy: Faust's threads reach into each other's loops, which uvloop answers by a crash.
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    metrics = Metrics(pipeline)
    port = settings.web.port or free_port()
    settings = settings.model_copy(update={"web": settings.web.model_copy(update={"port": port})})
    worker = Worker(pipeline, settings, metrics, accepted, skip)
    address = f"http://{settings.web.host}:{port}"
    log.info("pages", page=f"{address}/", metrics=f"{address}/metrics")
    pages = page_of(PageFacts(pipeline, worker, metrics, file), metrics.counts)
    predicting = Predicting(pipeline, settings, metrics) if settings.predict.enabled else None
    if predicting is not None:
        pages["/predict"] = Question(predicting.answer, BYTES_MAX)
        log.info("events may be posted", address=f"{address}/predict")
    server = _PageServer(settings.web, port, {**pages, **_pages(worker, metrics)}, metrics)
    if predicting is not None:
        server.beside(predicting.open(worker.connected))
    host = _Host(commands_app(pipeline, settings, worker.ask, port), worker, server, settings, loop)
    host.execute_from_commandline()


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"the state directory {path} cannot be made: {error.strerror}",
            hint="check HEADRACE_STATE_DIR and who owns the directory above it",
        ) from error


def _pages(worker: Worker, metrics: Metrics) -> dict[str, Page]:
    """Return the pages of a worker for probes and Prometheus.

    `/livez` says that the loop turns, never more; `/readyz` says that this process can answer events:
    partitions assigned, state restored, models caught up.
    """

    def metrics_page() -> PageText:
        return PageText(metrics.exposition(), content_type=EXPOSITION)

    def live() -> PageText:
        return _verdict(worker.unhealthy())

    def ready() -> PageText:
        return _verdict(worker.unhealthy() or worker.not_ready(), well=worker.standing())

    return {
        "/metrics": Page(metrics_page),
        "/livez": Page(live, is_open=True),
        "/healthz": Page(live, is_open=True),
        "/readyz": Page(ready, is_open=True),
    }


def _verdict(reason: str, well: str = "ok") -> PageText:
    return PageText(f"{reason or well}\n".encode(), 503 if reason else 200)


class _PageServer(faust.Service):
    """The pages under Faust's supervision, in the place of Faust's own server."""

    def __init__(self, settings: WebSettings, port: int, pages: dict[str, AnyPage], metrics: Metrics) -> None:
        super().__init__()
        token = settings.token.get_secret_value() if settings.token else None
        self._contexts: list[AbstractAsyncContextManager[None]] = [
            serving(settings.host, port, pages, token=token, counts=metrics.counts)
        ]

    def beside(self, context: AbstractAsyncContextManager[None]) -> None:
        """Keep a context open for as long as the pages are."""
        self._contexts.append(context)

    async def on_start(self) -> None:
        """Listen, until the service stops."""
        for context in self._contexts:
            await self.add_async_context(context)


class _DataPlane(faust.Service):
    """The worker's loops under Faust's supervision."""

    def __init__(self, worker: Worker, host: _Host, **options: Any) -> None:
        super().__init__(**options)
        self._worker = worker
        self._host = host
        self._running: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    async def on_start(self) -> None:
        """Start the loops, which join the group on their own; return once Kafka answers.

        Faust starts its own clients after this, and those do not try twice.
        """
        self._running = asyncio.create_task(self._worker.run())
        self._running.add_done_callback(self._host.data_plane_ended)
        await self._worker.connected.wait()
        self._watching = asyncio.create_task(self._host.watch())
        self._watching.add_done_callback(self._host.watch_ended)

    async def on_stop(self) -> None:
        """Drain: the worker flushes, checkpoints and leaves."""
        if self._watching is not None:
            self._watching.cancel()  # from here on the drain deadline holds
        self._worker.stop()
        if self._running is not None:
            await asyncio.wait({self._running})


class _Host(faust.Worker):
    """Faust's worker, with a deadline for its end."""

    def __init__(
        self,
        app: Any,
        worker: Worker,
        pages: _PageServer,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._deadline_s = settings.drain_deadline_ms / 1000
        self._progress_deadline_ms = settings.progress_deadline_ms
        self._worker = worker
        self._watchdog: threading.Timer | None = None
        super().__init__(
            app,
            _DataPlane(worker, self),
            pages,
            loop=loop,
            quiet=True,
            override_logging=False,
            redirect_stdouts=False,
        )

        self.spinner = None

    def data_plane_ended(self, running: asyncio.Task[None]) -> None:
        """End the process when the loops have ended: with code 1 if they died."""
        error = asyncio.CancelledError("nobody asked for it") if running.cancelled() else running.exception()
        if error is None:
            self._exit_within(EXIT_AFTER_DRAIN_S, 0)
            return
        if isinstance(error, HeadraceError):
            log.error("the data plane stopped", reason=str(error))
            sys.stderr.write(f"error: {error}\n")
        else:
            log.error("the data plane died", exc_info=error)
        _exit(1)  # Faust's own goodbye would take as long as the broker is away

    async def watch(self) -> None:
        """Watch the data plane until cancelled."""
        await watch(self._worker, self._progress_deadline_ms, self._stalled)

    def watch_ended(self, watching: asyncio.Task[None]) -> None:
        """End the process with code 1 when nobody watches any more."""
        if not watching.cancelled() and (error := watching.exception()) is not None:
            log.error("the watchdog died", exc_info=error)
            _exit(1)

    def _stalled(self, stall: Stall) -> None:
        """End the process with code 1: a supervisor starts it anew, and another worker takes over."""
        log.error(
            "no progress: the worker ends",
            subject=stall.subject,
            waits_for=stall.waits_for,
            stalled_s=round(stall.seconds),
            **stall.seen._asdict(),
        )
        sys.stderr.write(f"error: {stall}\n  fix: start it again: it goes on from the last checkpoint\n")
        _exit(1)

    def _schedule_shutdown(self, signal: Any) -> None:
        """First signal: drain within the deadline.  Second: now."""
        if self._signal_stop_time:
            os._exit(1)
        if not self._worker.connected.is_set():
            _exit(0)
        self._exit_within(self._deadline_s, 1)
        self._worker.stop()  # at once: Faust would stop its own clients first, and may hang there
        super()._schedule_shutdown(signal)

    def _exit_within(self, seconds: float, code: int) -> None:
        """End the process after `seconds`, whatever hangs; a later call replaces an earlier one."""
        if self._watchdog is not None:
            self._watchdog.cancel()
        self._watchdog = threading.Timer(seconds, self._give_up, args=(code,))
        self._watchdog.daemon = True
        self._watchdog.start()

    def _give_up(self, code: int) -> None:
        if code:
            log.error(
                "the drain deadline has passed: the next start does again what was not saved",
                deadline_s=self._deadline_s,
                reason=self._worker.not_ready(),
            )
        _exit(code)


def _exit(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
