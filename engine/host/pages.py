"""The web server of a process: a few pages, for whoever may see them, however slow the others are.

Lives here: paths, methods, the token, what bounds a client.  Never here: what a page says (`app.py`, the
commands that serve one), lifecycle.

    GET or HEAD, one request a connection     404 and 405 for anything else; a question is POSTed
    a header line, a request line             FIELD_BYTES_MAX, else 400
    a connection, from accept to last byte    CONNECTION_S, then it is cut: "slow"
    connections at once                       CONNECTIONS_MAX; one more cuts the oldest: "crowded"
    a page that is not open to all            `Authorization: Bearer TOKEN`, else 401: "token"
    a live page                               STREAM_S, then it ends; STREAMS_MAX at once, else 503: "streams"
    a part of it that is not taken            CONNECTION_S, then it is cut: "slow"
    a question                                the token, or on this machine where there is none: else 401
    its body                                  `bytes_max` of its page

A live page keeps no place among the connections, so who looks keeps no probe out, and no probe ends a look.
The oldest goes, not the newest: clients that send nothing can fill any number of places, and a probe that
comes then must still be answered.  A probe needs its connection for a millisecond.
"""

from __future__ import annotations

import asyncio
import errno
import hmac
import logging
import socket
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from engine.settings import is_loopback
from topics.errors import SettingsError

__all__ = [
    "CONNECTIONS_MAX",
    "CONNECTION_S",
    "COUNTED_AS",
    "EXPOSITION",
    "STREAMS_MAX",
    "STREAM_S",
    "LivePage",
    "Page",
    "PageText",
    "Question",
    "check_port",
    "serving",
]

CONNECTIONS_MAX = 128
"""A tenth of the files that a process may usually have open; Kafka and the stores need the others."""
CONNECTION_S = 10.0
"""As long as Prometheus waits for a scrape by default."""
STREAMS_MAX = 16
"""Live pages at once: a team that looks, and its screens on the wall."""
STREAM_S = 600.0
"""Of one live page; the browser asks again, and who has gone without a word keeps no place for longer."""
FIELD_BYTES_MAX = 8_190
"""Of one header, and of the request line; a token and a path are a hundredth of it."""
FIELDS_MAX = 64
"""Headers of a request; browsers send 20."""
GOODBYE_S = 1.0
"""Answers on their way get so long when the pages close."""
EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"
"""Prometheus' text format."""
TEXT = "text/plain; charset=utf-8"
COUNTED_AS = "page_refusals"
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of every answer: a page takes nothing from elsewhere, and no other page frames it."""


class PageText(NamedTuple):
    """What a page says."""

    body: bytes
    status: int = 200
    content_type: str = TEXT


class Page(NamedTuple):
    """How a page is made, and whether everybody may see it, who can reach the port."""

    answer: Callable[[], PageText]
    is_open: bool = False


class LivePage(NamedTuple):
    """A page that goes on: its parts are written as they come, for STREAM_S at most.

    `parts` is asked with whether this client may see what is about persons: who has sent the token, and where
    there is none, who is on this machine.
    """

    parts: Callable[[bool], AsyncGenerator[bytes]]
    content_type: str = "text/event-stream"


class Question(NamedTuple):
    """A page that answers what is POSTed to it.

    `answer` is awaited with the content type and the body; None is one larger than `bytes_max`.
    """

    answer: Callable[[str, bytes | None], Awaitable[PageText]]
    bytes_max: int


AnyPage = Page | LivePage | Question


@asynccontextmanager
async def serving(
    host: str,
    port: int,
    pages: Mapping[str, AnyPage],
    *,
    token: str | None,
    counts: Counter[tuple[str, str]],
) -> AsyncIterator[None]:
    """Serve pages by their paths until the context ends.

    With `token`, pages that are not open are shown to who sends it, and to nobody else.  What was refused is
    counted in `counts` under ("page_refusals", why).  Raises OSError where nothing can listen on the port.
    """
    listener = logging.getLogger("headrace.pages.http")
    listener.setLevel(logging.DEBUG)  # where aiohttp says it of another protocol's bytes
    listener.filters[:] = [_Malformed(counts)]
    answering = _Pages(pages, token, counts, on_loopback=is_loopback(host))
    door = answering.door = _Door(
        answering.answer,
        counts,
        logger=listener,
        access_log=None,
        max_line_size=FIELD_BYTES_MAX,
        max_field_size=FIELD_BYTES_MAX,
        max_headers=FIELDS_MAX,
    )
    runner = web.ServerRunner(door, shutdown_timeout=GOODBYE_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield
    finally:
        door.end_streams()
        await runner.cleanup()


class _Pages:
    """Who gets which page."""

    door: _Door

    def __init__(
        self,
        pages: Mapping[str, AnyPage],
        token: str | None,
        counts: Counter[tuple[str, str]],
        *,
        on_loopback: bool,
    ) -> None:
        self._pages = pages
        self._wanted = None if token is None else f"Bearer {token}".encode()
        self._counts = counts
        self._on_loopback = on_loopback

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; the connection is closed behind it."""
        page = self._pages.get(request.path)
        refused = self._refusal(page, request)
        if refused is None and isinstance(page, LivePage):
            if request.method == "HEAD":
                return _whole(PageText(b"", content_type=page.content_type), {})
            if self.door.keep(request.protocol):
                return await self._live(page, request)
            refused = self._refuse("streams", f"{STREAMS_MAX} look already\n", 503), {"Retry-After": "5"}
        if refused is None and isinstance(page, Question):
            refused = await page.answer(request.content_type, await _body(request, page.bytes_max)), {}
        if refused is None and isinstance(page, Page):
            refused = page.answer(), {}
        assert refused is not None
        return _whole(*refused)

    def _refusal(
        self, page: AnyPage | None, request: web.BaseRequest
    ) -> tuple[PageText, Mapping[str, str]] | None:
        """Return what is said in the place of a page, with headers; None where it is shown."""
        if page is None:
            return PageText(f"there is {', '.join(self._pages)}\n".encode(), 404), {}
        methods = ("POST",) if isinstance(page, Question) else ("GET", "HEAD")
        if request.method not in methods:
            return PageText(f"{methods[0]} it\n".encode(), 405), {"Allow": ", ".join(methods)}
        is_open = isinstance(page, Page) and page.is_open
        is_known = self._is_known(request.headers.get("Authorization", ""))
        if isinstance(page, Question):  # it writes, and tells of a person: no page of elsewhere may ask
            is_known = is_known and self._sees_persons(request)
        if is_open or is_known:
            return None
        said = "this page needs HEADRACE_WEB__TOKEN: send Authorization: Bearer TOKEN\n"
        return self._refuse("token", said, 401), {"WWW-Authenticate": 'Bearer realm="headrace"'}

    def _refuse(self, reason: str, said: str, status: int) -> PageText:
        self._counts[COUNTED_AS, reason] += 1
        return PageText(said.encode(), status)

    async def _live(self, page: LivePage, request: web.BaseRequest) -> web.StreamResponse:
        """Write the parts of a page until its client leaves, takes none for too long, or the time is over."""
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": page.content_type})
        response.force_close()
        await response.prepare(request)
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + STREAM_S
        try:
            async with aclosing(page.parts(self._sees_persons(request))) as parts:
                async for part in parts:
                    async with asyncio.timeout(CONNECTION_S):
                        await response.write(part)
                    if loop.time() >= ends_s:
                        break
        except TimeoutError:
            self._counts[COUNTED_AS, "slow"] += 1
            if request.transport is not None:
                request.transport.abort()
        except ConnectionError:
            pass  # its client has left
        return response

    def _sees_persons(self, request: web.BaseRequest) -> bool:
        """Return whether a client that may see the page may see what is about persons, too.

        Without a token it must ask on this machine, under the machine's own name: a page from elsewhere
        whose name has come to mean this machine asks under that name.
        """
        if self._wanted is not None:
            return True
        return self._on_loopback and is_loopback(urlsplit(f"//{request.host}").hostname or "")

    def _is_known(self, given: str) -> bool:
        if self._wanted is None:
            return True
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._wanted)


async def _body(request: web.BaseRequest, bytes_max: int) -> bytes | None:
    """Return the body of a request; None where it is larger."""
    if (request.content_length or 0) > bytes_max:
        return None
    body = bytearray()
    async for part in request.content.iter_any():
        body += part
        if len(body) > bytes_max:
            return None
    return bytes(body)


def _whole(text: PageText, headers: Mapping[str, str]) -> web.Response:
    response = web.Response(
        body=text.body,
        status=text.status,
        headers={**HEADERS, "Content-Type": text.content_type, **headers},
    )
    response.force_close()
    return response


class _Door(web.Server):
    """A server that knows how long each connection has been there, and ends the slow and the many."""

    def __init__(self, handler: Any, counts: Counter[tuple[str, str]], **options: Any) -> None:
        super().__init__(handler, **options)
        self._counts = counts
        self._inside: dict[web.RequestHandler, tuple[asyncio.Transport, asyncio.TimerHandle]] = {}
        """Oldest first, each with the timer that ends it."""
        self._live: dict[web.RequestHandler, asyncio.Task[Any] | None] = {}
        """Live pages, each with the task that writes it."""

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Give a connection its time, and its place: that of the oldest where there is no other."""
        super().connection_made(handler, transport)
        timer = asyncio.get_running_loop().call_later(CONNECTION_S, self._cut, handler, "slow")
        self._inside[handler] = transport, timer
        if len(self._inside) > CONNECTIONS_MAX:
            self._cut(next(iter(self._inside)), "crowded")

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """Forget a connection."""
        super().connection_lost(handler, exc)
        self._leave(handler)
        self._live.pop(handler, None)

    def keep(self, handler: web.RequestHandler) -> bool:
        """Let the connection of the present task stay as a live page; False where there are enough."""
        if len(self._live) >= STREAMS_MAX:
            return False
        if self._leave(handler) is not None:
            self._live[handler] = asyncio.current_task()
        return True

    def end_streams(self) -> None:
        """End all live pages."""
        for task in self._live.values():
            if task is not None:
                task.cancel()

    def _leave(self, handler: web.RequestHandler) -> asyncio.Transport | None:
        transport, timer = self._inside.pop(handler, (None, None))
        if timer is not None:
            timer.cancel()
        return transport

    def _cut(self, handler: web.RequestHandler, reason: str) -> None:
        """End a connection at once, with whatever it has not read."""
        transport = self._leave(handler)
        if transport is not None:
            self._counts[COUNTED_AS, reason] += 1
            transport.abort()


class _Malformed(logging.Filter):
    """Counts requests that are none in the place of aiohttp's lines, which quote what was sent."""

    def __init__(self, counts: Counter[tuple[str, str]]) -> None:
        super().__init__()
        self._counts = counts

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            self._counts[COUNTED_AS, "malformed"] += 1
            return False
        return record.levelno >= logging.WARNING


def check_port(host: str, port: int, *, hint: str) -> None:
    """Raise SettingsError, with `hint`, if `host` and `port` cannot be listened on at this moment."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, socket_type, protocol, _, address = addresses[0]
        with socket.socket(family, socket_type, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as asyncio's servers do
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        reason = "another process listens there" if taken else error.strerror
        raise SettingsError(f"the pages cannot be served on {host}:{port}: {reason}", hint=hint) from error
