"""Live pages on real sockets: how many, for how long, for whom, and what it costs probes: nothing."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, contextmanager

import pytest
import structlog
from test_pages import DEADLINE_S, TOKEN, get, until

from engine.host import pages as served
from engine.host.pages import CONNECTIONS_MAX, STREAMS_MAX, LivePage, Page, PageText, serving
from engine.kafka.embedded import free_port
from engine.page.stream import PageStream, Part

LARGE = bytes(8 << 20)


async def _ticking(sees_persons: bool) -> AsyncGenerator[bytes]:
    while True:
        yield b"yours\n" if sees_persons else b"for all\n"
        await asyncio.sleep(0.01)


async def _pouring(_: bool) -> AsyncGenerator[bytes]:
    while True:
        yield LARGE


PAGES = {
    "/live": LivePage(_ticking),
    "/pouring": LivePage(_pouring),
    "/livez": Page(lambda: PageText(b"ok\n"), is_open=True),
}


@contextmanager
def pages(
    token: str | None = None, host: str = "127.0.0.1"
) -> Iterator[tuple[int, Counter[tuple[str, str]]]]:
    """Serve PAGES from a loop in a thread of its own; give the port and what is counted."""
    port, counts = free_port(), Counter[tuple[str, str]]()
    started, loop = threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with serving(host, port, PAGES, token=token, counts=counts):
            started.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    try:
        assert started.wait(DEADLINE_S)
        yield port, counts
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(DEADLINE_S)
        assert not thread.is_alive(), "live pages end with the server"
        loop.close()


def ask(port: int, path: str, *headers: str, host: str = "127.0.0.1") -> socket.socket:
    """Ask for a page and leave the connection open."""
    client = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
    lines = (f"GET {path} HTTP/1.1", f"Host: {host}:{port}", *headers)
    client.sendall("\r\n".join([*lines, "", ""]).encode())
    return client


def heard(client: socket.socket, wanted: bytes) -> bool:
    """Return whether this comes before the connection ends."""
    text = b""
    try:
        while wanted not in text and (part := client.recv(4_096)):
            text += part
    except ConnectionError:
        pass
    return wanted in text


def test_a_live_page_outlasts_connections_and_leaves_probes_their_places(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(served, "CONNECTION_S", 0.5)
    with pages() as (port, counts), ExitStack() as open_:
        live = [open_.enter_context(ask(port, "/live")) for _ in range(STREAMS_MAX)]
        assert all(heard(client, b"200 OK") for client in live)
        with ask(port, "/live") as one_more:
            assert heard(one_more, b"503 ")
        assert counts == {("page_refusals", "streams"): 1}
        for _ in range(CONNECTIONS_MAX + 10):
            open_.enter_context(socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S))
        assert all(get(port, "/livez") == (200, "ok\n") for _ in range(20))
        until(
            lambda: counts["page_refusals", "slow"] + counts["page_refusals", "crowded"] >= 138, f"{counts}"
        )
        assert all(heard(client, b"yours\n") for client in live)
        live[0].close()
        until(lambda: get(port, "/livez")[0] == 200 and heard_again(port), "a place that was left is free")


def heard_again(port: int) -> bool:
    with ask(port, "/live") as client:
        return heard(client, b"yours\n")


def test_a_live_page_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "STREAM_S", 0.1)
    with pages() as (port, counts), ask(port, "/live") as client:
        assert not heard(client, b"never said")
        assert not counts


def test_a_live_page_that_nobody_takes_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "CONNECTION_S", 0.2)
    with pages() as (port, counts), ask(port, "/pouring"):
        until(lambda: counts["page_refusals", "slow"] == 1, f"{counts}")


@pytest.mark.parametrize(
    ("token", "headers", "host", "said"),
    [
        (None, (), "127.0.0.1", b"yours\n"),
        (None, (), "localhost", b"yours\n"),
        (None, (), "rebound.example.org", b"for all\n"),
        (TOKEN, (), "127.0.0.1", b"401 "),
        (TOKEN, ("Authorization: Bearer another token",), "127.0.0.1", b"401 "),
        (TOKEN, (f"Authorization: Bearer {TOKEN}",), "worker.example.org", b"yours\n"),
    ],
)
def test_persons_are_for_the_token_or_for_this_machine_under_its_own_name(
    token: str | None, headers: tuple[str, ...], host: str, said: bytes
) -> None:
    with pages(token) as (port, _), ask(port, "/live", *headers, host=host) as client:
        assert heard(client, said)


def test_without_a_token_on_all_addresses_nobody_sees_persons() -> None:
    with pages(host="0.0.0.0") as (port, _), ask(port, "/live") as client:
        assert heard(client, b"for all\n")


# -- what is told ------------------------------------------------------------------------------------


def test_parts_are_made_once_for_all_and_never_for_nobody() -> None:
    asyncio.run(_made_once_for_all())


async def _made_once_for_all() -> None:
    made: Counter[str] = Counter()

    def make(name: str) -> bytes:
        made[name] += 1
        return f'"{name} {made[name]}"'.encode()

    parts = [Part("facts", lambda: make("facts")), Part("persons", lambda: make("persons"), of_persons=True)]
    counts: Counter[tuple[str, str]] = Counter()
    stream = PageStream(parts, counts, counted_as=("page_refusals", "behind"))
    await asyncio.sleep(0)
    assert not made
    strangers = [stream.listen(False) for _ in range(3)]
    told = [await anext(stranger) for stranger in strangers]
    assert set(told) == {b'event: facts\ndata: "facts 1"\n\n'}
    friend = stream.listen(True)
    assert b"facts 1" in await anext(friend), "a newcomer hears at once what was made last"
    while b"persons" not in await anext(friend):
        pass
    assert made["persons"] == 1
    assert b"persons" not in b"".join([await anext(stranger) for stranger in strangers])
    for listener in (*strangers, friend):
        await listener.aclose()
    now = made.copy()
    await asyncio.sleep(1.5)
    assert made == now, "nobody listens"


def test_who_reads_slowly_misses_moments_and_gets_the_newest() -> None:
    asyncio.run(_reads_slowly())


async def _reads_slowly() -> None:
    numbers = iter(range(100))
    counts: Counter[tuple[str, str]] = Counter()
    parts = [Part("facts", lambda: b"%d" % next(numbers)), Part("about", lambda: b"0")]
    stream = PageStream(parts, counts, counted_as=("page_refusals", "behind"))
    slow = stream.listen(True)
    assert await anext(slow) == b"event: facts\ndata: 0\n\nevent: about\ndata: 0\n\n"
    until_behind = asyncio.get_running_loop().time() + DEADLINE_S
    while counts["page_refusals", "behind"] < 2:
        assert asyncio.get_running_loop().time() < until_behind
        await asyncio.sleep(0.05)
    (line,) = (line for line in (await anext(slow)).splitlines() if line.startswith(b"data"))
    assert int(line.removeprefix(b"data: ")) >= 2, "the newest, and what has not changed is not said again"
    await slow.aclose()


def test_a_part_that_fails_ends_the_stream_and_is_logged() -> None:
    async def listen() -> list[bytes]:
        stream = PageStream([Part("facts", lambda: b"%d" % (1 // 0))], Counter(), counted_as=("a", "b"))
        return [part async for part in stream.listen(True)]

    with structlog.testing.capture_logs() as lines:
        assert asyncio.run(listen()) == []
    assert [line["event"] for line in lines] == ["the page could not be made"]
