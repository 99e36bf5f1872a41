"""What a webhook gets, and that the page says how to know it."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from paths import CHECKOUT

from engine.alerts.channels import AwayError, RefusedError, WebhookChannel
from engine.settings import AlertSettings
from topics.messages import AlertRecord

KEY = "an alert is signed"
PAGE = (CHECKOUT / "docs" / "alerts.md").read_text()
ALERT = AlertRecord(
    "flights:lag_records:0:1700000000000", "lag_records", "firing", "signal", "warning", 1_700_000_300_000,
    1_700_000_000_000, "lag_records of 0 is 12345, above 10000: many", "0", 12_345.0, 10_000.0,
)  # fmt: skip


class Session:
    """An `aiohttp` session that keeps what is posted, and answers with one status."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.posted: list[tuple[str, bytes, dict[str, str]]] = []

    def post(self, url: str, *, data: bytes, headers: dict[str, str], **_: Any) -> Session:
        self.posted.append((url, data, headers))
        return self

    async def __aenter__(self) -> Any:
        return SimpleNamespace(status=self.status)

    async def __aexit__(self, *_: object) -> None:
        return None


def sent(session: Session) -> tuple[str, bytes, dict[str, str]]:
    settings = AlertSettings.model_validate({"webhook_url": "http://hook.example/a", "webhook_key": KEY})
    made: Any = session
    asyncio.run(WebhookChannel(settings, made).send(ALERT, 0))
    return session.posted[0]


def blocks(language: str) -> list[str]:
    return [part.split("```")[0] for part in PAGE.split(f"```{language}\n")[1:]]


def test_the_page_tells_how_a_signature_is_checked() -> None:
    code = next(block for block in blocks("python") if "hmac" in block)
    assert len(code.strip().splitlines()) <= 7
    space: dict[str, Any] = {}
    exec(code, space)
    _, body, headers = sent(Session())
    assert space["is_ours"](body, headers, KEY)
    assert not space["is_ours"](body + b" ", headers, KEY)
    assert not space["is_ours"](body, headers, "another key of some length")
    assert not space["is_ours"](body, {}, KEY)


def test_the_page_shows_what_is_posted() -> None:
    shown = json.loads(next(iter(blocks("json"))))
    assert set(json.loads(sent(Session())[1])) <= set(shown) <= set(AlertRecord.__struct_fields__)


@pytest.mark.parametrize(
    ("status", "kind"), [(503, AwayError), (429, AwayError), (302, RefusedError), (400, RefusedError)]
)
def test_an_answer_says_whether_it_is_tried_again(status: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=f"status {status}"):
        sent(Session(status))
