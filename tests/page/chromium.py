"""A real Chromium, headless, driven over its DevTools protocol.

Lives here: its process, one tab, what the tab says, looks like and takes from the keyboard.  Never here: a
test, the page.

No driver is installed for it: the protocol is JSON over a websocket, and aiohttp speaks those.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

START_S = 60.0
ANSWER_S = 60.0
LOOK_S = 0.1
MESSAGE_BYTES_MAX = 64 << 20
"""A picture of a whole page, in base64."""


class Tab:
    """One page in the browser: its console, its requests, its failures."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.said: list[str] = []
        """Errors and warnings of the console, uncaught exceptions, refusals of the content policy."""
        self.asked: list[str] = []
        """Addresses of all requests."""

    async def listen(self) -> None:
        """Take what the browser says, until it has gone."""
        async for message in self._socket:
            told = json.loads(message.data)
            if "id" in told:
                self._answers.pop(told["id"]).set_result(told)
            else:
                self._heard(told["method"], told["params"])

    def _heard(self, event: str, params: dict[str, Any]) -> None:
        if event == "Runtime.consoleAPICalled" and params["type"] in {"error", "warning", "assert"}:
            self.said.append(" ".join(str(one.get("value", one)) for one in params["args"]))
        elif event == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.said.append(details.get("exception", {}).get("description", details["text"]))
        elif event == "Log.entryAdded" and params["entry"]["level"] in {"error", "warning"}:
            self.said.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif event == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        async with asyncio.timeout(ANSWER_S):
            told = await answer
        assert "error" not in told, f"{method}: {told['error']}"
        return told["result"]

    async def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        told = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    async def until(self, expression: str, deadline_s: float = ANSWER_S) -> None:
        """Wait until an expression is true; fail at the deadline."""
        ends_s = time.monotonic() + deadline_s
        while not await self.evaluate(f"!!({expression})"):
            shown = await self.evaluate("document.body?.innerText")
            assert time.monotonic() < ends_s, f"never true: {expression}\n{self.said}\n{shown}"
            await asyncio.sleep(LOOK_S)

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)
        await self.until(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    async def look(self, *, width: int, height: int = 900, dark: bool = False) -> None:
        """Take a window of this width, and a colour scheme."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self.call("Emulation.setEmulatedMedia", features=scheme)
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip

    async def press(self, key: str) -> None:
        """Press and release a key."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27}
        text = {"text": "\r"} if key == "Enter" else {}
        for event in ("keyDown", "keyUp"):
            pressed = text if event == "keyDown" else {}
            await self.call(
                "Input.dispatchKeyEvent",
                type=event,
                key=key,
                code=key,
                windowsVirtualKeyCode=codes[key],
                **pressed,
            )

    async def picture(self, *, form: str = "png", whole: bool = True) -> bytes:
        """Return a picture of the whole page, or of what the window shows."""
        shot = await self.call("Page.captureScreenshot", format=form, captureBeyondViewport=whole)
        return base64.b64decode(shot["data"])


def found() -> str:
    """Return the browser's command; without one skip the test, in CI fail it."""
    command = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if command is None:
        reason = "Chromium is missing (Debian: apt-get install chromium)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return command


@asynccontextmanager
async def tab() -> AsyncIterator[Tab]:
    """Run a browser that reaches this machine alone, with one tab, for the block."""
    profile = Path(tempfile.mkdtemp(prefix="headrace-chromium-"))
    process = await asyncio.create_subprocess_exec(
        found(),
        "--headless=new",
        "--no-sandbox",  # as root, as in CI; it opens nothing but ours
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        port = await asyncio.to_thread(_port, profile / "DevToolsActivePort")
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                targets = await answer.json()
            (url,) = [one["webSocketDebuggerUrl"] for one in targets if one["type"] == "page"]
            async with session.ws_connect(url, max_msg_size=MESSAGE_BYTES_MAX) as socket:
                page = Tab(socket)
                listening = asyncio.create_task(page.listen())
                for domain in ("Runtime", "Log", "Network", "Page"):
                    await page.call(f"{domain}.enable")
                yield page
                listening.cancel()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        shutil.rmtree(profile, ignore_errors=True)


def _port(file: Path) -> int:
    """Return the port that a starting browser writes down."""
    ends_s = time.monotonic() + START_S
    while not file.exists() or not (text := file.read_text()):
        assert time.monotonic() < ends_s, "the browser did not start"
        time.sleep(LOOK_S)
    return int(text.split()[0])
