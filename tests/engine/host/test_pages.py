"""Real sockets against the pages: who sees what, and that no client keeps another one out."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from engine.host import pages as served
from engine.host.pages import CONNECTIONS_MAX, Page, PageText, Question, check_port, serving
from engine.kafka.embedded import free_port
from engine.settings import WebSettings

TOKEN = "a token of enough bytes"
SLOW_CLIENTS = 1_100
DEADLINE_S = 30.0
ASKED_BYTES_MAX = 100


async def asked(content_type: str, body: bytes | None) -> PageText:
    if body is None:
        return PageText(b"", 413)
    return PageText(b"%s %d\n" % (content_type.encode(), len(body)))


PAGES = {
    "/metrics": Page(lambda: PageText(b"headrace_events_total 7\n")),
    "/livez": Page(lambda: PageText(b"ok\n"), is_open=True),
    "/broken": Page(lambda: PageText(str(1 // 0).encode()), is_open=True),
    "/ask": Question(asked, ASKED_BYTES_MAX),
}


@contextmanager
def pages(token: str | None = None) -> Iterator[tuple[int, Counter[tuple[str, str]]]]:
    """Serve PAGES from a loop in a thread of its own; give the port and what is counted."""
    port, counts = free_port(), Counter[tuple[str, str]]()
    started, loop = threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with serving("127.0.0.1", port, PAGES, token=token, counts=counts):
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
        assert not thread.is_alive()
        loop.close()


def get(port: int, path: str, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def exchange(port: int, sent: bytes) -> bytes:
    """Send bytes and return all that comes back before the server closes; a reset is nothing more."""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as client:
        received = b""
        try:
            client.sendall(sent)
            while part := client.recv(65_536):
                received += part
        except ConnectionError:
            pass
        return received


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def test_without_a_token_all_pages_are_for_all() -> None:
    with pages() as (port, counts):
        assert get(port, "/metrics") == (200, "headrace_events_total 7\n")
        assert get(port, "/livez") == (200, "ok\n")
        assert not counts


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"Authorization": "Bearer another token"},
        {"Authorization": TOKEN},
        {"Authorization": f"Basic {TOKEN}"},
    ]
    + [{"Authorization": f"Bearer {TOKEN}{more}"} for more in ("x", "\xff")],
)
def test_a_token_keeps_all_but_probes_to_those_who_have_it(given: dict[str, str]) -> None:
    with pages(TOKEN) as (port, counts):
        status, text = get(port, "/metrics", **given)
        assert (status, "headrace_events_total" in text) == (401, False)
        assert TOKEN not in text
        assert counts == {("page_refusals", "token"): 1}
        assert get(port, "/livez", **given) == (200, "ok\n")
        assert get(port, "/metrics", Authorization=f"Bearer {TOKEN}")[0] == 200


@pytest.mark.parametrize(
    "path", ["/", "/table/", "/router/", "/graph/", "/../etc/passwd", "/metrics/", "//livez"]
)
def test_there_are_no_other_pages(path: str) -> None:
    with pages() as (port, _):
        status, text = get(port, path)
        assert (status, text) == (404, "there is /metrics, /livez, /broken, /ask\n")


def test_a_page_is_only_looked_at() -> None:
    with pages() as (port, _):
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
            answer = exchange(
                port, f"{method} /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode()
            )
            assert answer.startswith(b"HTTP/1.1 405 "), method
        head = exchange(port, b"HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert head.endswith(b"\r\n\r\n")


def test_a_connection_is_for_one_request() -> None:
    with pages() as (port, _):
        answers = exchange(port, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
        assert answers.count(b"HTTP/1.1 200 ") == 1
        assert b"connection: close" in answers.lower()


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 5_000_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(5_000)) + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10 + b"\r\n\r\n",
        b"\x00" * 100 + b"\r\n\r\n",
    ],
    ids=["header", "path", "headers", "tls", "zeros"],
)
def test_what_is_no_request_is_refused_and_quoted_nowhere(
    sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with pages() as (port, counts):
        answer = exchange(port, sent)
        assert not answer or answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 ")), answer[:80]
        until(lambda: counts == {("page_refusals", "malformed"): 1}, f"{counts}")
        assert get(port, "/livez")[0] == 200
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_page_that_fails_is_said_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with pages() as (port, counts):
        assert get(port, "/broken")[0] == 500
        assert not counts
    assert any(record.exc_info for record in caplog.records)


def test_more_slow_clients_than_files_keep_no_probe_out() -> None:
    """As many as a process may usually have files open; each has sent half a request, and sends no more."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 4_096), most))
    with pages() as (port, counts), ExitStack() as open_:
        for _ in range(SLOW_CLIENTS):
            client = open_.enter_context(socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S))
            client.sendall(b"GET /metrics HTTP/1.1\r\nX-Slow: ")
        for _ in range(20):
            assert get(port, "/livez") == (200, "ok\n")
        cut = SLOW_CLIENTS - CONNECTIONS_MAX
        until(lambda: counts.total() >= cut, f"{counts}")
        assert counts["page_refusals", "crowded"]


@pytest.mark.parametrize(
    "sent", [b"", b"GET /livez HT", b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"]
)
def test_a_slow_client_is_cut_off(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "CONNECTION_S", 0.2)
    with pages() as (port, counts):
        exchange(port, sent)  # ends, or fails by its deadline
        until(lambda: counts["page_refusals", "slow"] == 1, f"{counts}")


def test_a_client_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "CONNECTION_S", 0.2)
    monkeypatch.setitem(PAGES, "/large", Page(lambda: PageText(bytes(64 << 20)), is_open=True))
    with pages() as (port, counts), socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        until(lambda: counts["page_refusals", "slow"] == 1, f"{counts}")


def test_a_port_that_is_taken_is_said() -> None:
    with pages() as (port, _), pytest.raises(Exception, match="another process listens there"):
        check_port("127.0.0.1", port, hint="take another")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1", "worker-1", "127.example.org"])
def test_another_address_than_the_loopback_needs_a_token(host: str) -> None:
    with pytest.raises(ValueError, match="there is no token"):
        WebSettings(host=host)
    assert WebSettings(host=host, allow_anonymous=True).token is None
    assert WebSettings.model_validate({"host": host, "token": TOKEN}).token


def test_a_token_that_can_be_guessed_is_refused() -> None:
    with pytest.raises(ValueError, match="can be guessed") as caught:
        WebSettings.model_validate({"token": "headrace"})
    assert "headrace" not in str(caught.value)


# -- questions ----------------------------------------------------------------------------------------


def post(port: int, body: bytes, method: str = "POST", **headers: str) -> int:
    headers = {"Content-Type": "application/json"} | headers
    request = urllib.request.Request(f"http://127.0.0.1:{port}/ask", body, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
            assert answer.read() == b"application/json %d\n" % len(body)
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_a_question_is_answered_with_its_body_and_a_large_one_is_not_read() -> None:
    with pages() as (port, _):
        assert post(port, b"x" * ASKED_BYTES_MAX) == 200
        assert post(port, b"x" * (ASKED_BYTES_MAX + 1)) == 413
        chunked = b"".join(b"5\r\nxxxxx\r\n" for _ in range(1 + ASKED_BYTES_MAX // 5)) + b"0\r\n\r\n"
        head = b"POST /ask HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert exchange(port, head + chunked).startswith(b"HTTP/1.1 413")
        assert get(port, "/ask")[0] == 405


def test_a_question_is_for_who_has_the_token() -> None:
    with pages(TOKEN) as (port, counts):
        assert post(port, b"x") == 401
        assert post(port, b"x", Authorization=f"Bearer {TOKEN}") == 200
        assert post(port, b"x", Authorization=f"Bearer {TOKEN}", Host="page.example") == 200
        assert counts == {("page_refusals", "token"): 1}


def test_without_a_token_a_question_is_for_this_machine_under_its_own_name() -> None:
    with pages() as (port, counts):
        assert post(port, b"x", Host="localhost") == 200
        assert post(port, b"x", Host="page.example") == 401, "a name that somebody has made mean this machine"
        assert counts == {("page_refusals", "token"): 1}
