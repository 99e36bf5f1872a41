"""The channels: a line of the log, a webhook, Alertmanager.

Lives here: what is sent to each, and what an answer means.  Never here: how often it is tried, and until when
(`delivery.py`).

    log           one line, at the level of the severity
    webhook       POST of the record as it lies on the topic; with a key, a header
                  `X-Headrace-Signature-256: sha256=` and the HMAC of the body, as GitHub's webhooks have it
    alertmanager  POST /api/v2/alerts (https://github.com/prometheus/alertmanager, api/v2/openapi.yaml); sent
                  again while it fires, as Prometheus does: what is not repeated ends by itself
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Protocol

import aiohttp
import structlog

from engine.settings import AlertSettings
from topics.codec import encode, encode_json
from topics.messages import AlertChannel, AlertRecord

__all__ = ["AlertmanagerChannel", "AwayError", "Channel", "LogChannel", "RefusedError", "WebhookChannel"]

REPEATS_LOST = 4
"""Alertmanager ends an alert of which it has heard nothing for so many repetitions, as Prometheus has it."""
TOLD_MS = 300_000
"""How long Alertmanager shows what has happened once."""
RETRIED_STATUS = frozenset({408, 425, 429})
"""Answers below 500 after which it is tried again."""
SIGNATURE = "X-Headrace-Signature-256"

log = structlog.get_logger("headrace")


class AwayError(Exception):
    """A channel cannot be reached now, or says that it will be."""


class RefusedError(Exception):
    """A channel will not take this, however often it is sent."""


class Channel(Protocol):
    """One way to people."""

    @property
    def name(self) -> AlertChannel:
        """Return its name."""
        ...

    async def send(self, alert: AlertRecord, now_ms: int) -> None:
        """Send one record.  Raises AwayError or RefusedError."""
        ...

    async def repeat(self, now_ms: int) -> None:
        """Say again what still holds, where the channel wants that.  Raises AwayError or RefusedError."""
        ...


class LogChannel:
    """A line of the worker's log."""

    name: AlertChannel = "log"

    async def send(self, alert: AlertRecord, _now_ms: int) -> None:
        """Log one record."""
        level = {"info": "info", "warning": "warning", "critical": "error"}[alert.severity]
        told = {"alert_id": alert.alert_id, "severity": alert.severity, "count": alert.count}
        told |= {name: text for name in ("costs", "act", "look", "runbook") if (text := getattr(alert, name))}
        getattr(log, "info" if alert.state == "resolved" else level)(
            f"alert {alert.state}: {alert.says}", **told
        )

    async def repeat(self, _now_ms: int) -> None:
        """Do nothing: a line stays."""


class WebhookChannel:
    """An address that takes JSON."""

    name: AlertChannel = "webhook"

    def __init__(self, settings: AlertSettings, session: aiohttp.ClientSession) -> None:
        assert settings.webhook_url is not None
        self._url = settings.webhook_url.get_secret_value()
        self._key = settings.webhook_key.get_secret_value().encode() if settings.webhook_key else None
        self._session = session

    async def send(self, alert: AlertRecord, _now_ms: int) -> None:
        """Post one record."""
        body, sent = encode(alert), {"Content-Type": "application/json"}
        if self._key is not None:
            sent[SIGNATURE] = "sha256=" + hmac.new(self._key, body, sha256).hexdigest()
        await _post(self._session, self._url, body, sent)

    async def repeat(self, _now_ms: int) -> None:
        """Do nothing: who takes it keeps it."""


class AlertmanagerChannel:
    """Alertmanager, which groups, silences and passes on."""

    name: AlertChannel = "alertmanager"

    def __init__(
        self,
        settings: AlertSettings,
        session: aiohttp.ClientSession,
        pipeline: str,
        firing: Sequence[AlertRecord] = (),
    ) -> None:
        """`firing` are those that were sent before, which are to be said again."""
        assert settings.alertmanager_url is not None
        self._url = settings.alertmanager_url.get_secret_value().rstrip("/") + "/api/v2/alerts"
        self._session, self._pipeline = session, pipeline
        self._holds_ms = REPEATS_LOST * settings.repeat_ms
        self._firing = {(one.policy, one.subject): one for one in firing}

    async def send(self, alert: AlertRecord, now_ms: int) -> None:
        """Post one record, and remember whether it fires."""
        place = alert.policy, alert.subject
        if alert.state == "firing":
            self._firing[place] = alert
        elif place in self._firing and self._firing[place].alert_id == alert.alert_id:
            del self._firing[place]
        await self._send([alert], now_ms)

    async def repeat(self, now_ms: int) -> None:
        """Post all that fire."""
        if self._firing:
            await self._send(list(self._firing.values()), now_ms)

    async def _send(self, alerts: Sequence[AlertRecord], now_ms: int) -> None:
        body = encode_json([self._posted(one, now_ms) for one in alerts])
        await _post(self._session, self._url, body, {"Content-Type": "application/json"})

    def _posted(self, alert: AlertRecord, now_ms: int) -> dict[str, Any]:
        """Return an alert as Alertmanager takes it: what it is known by, and what people read."""
        ends_ms = now_ms
        if alert.state != "resolved":
            ends_ms += self._holds_ms if alert.state == "firing" else TOLD_MS
        labels = {
            "alertname": alert.policy,
            "pipeline": self._pipeline,
            "severity": alert.severity,
            "alert_id": alert.alert_id,
        }
        annotations = {
            "summary": alert.says,
            "costs": alert.costs,
            "act": alert.act,
            "look": alert.look,
            "runbook_url": alert.runbook,
        }
        return {
            "labels": labels | ({"subject": alert.subject} if alert.subject else {}),
            "annotations": {name: text for name, text in annotations.items() if text},
            # It refuses what begins after it ends; label time may lie ahead of our clock, or before all.
            "startsAt": _rfc3339(min(max(alert.since, 0), ends_ms)),
            "endsAt": _rfc3339(ends_ms),
        }


def _rfc3339(time_ms: int) -> str:
    """Return a time as RFC 3339.

    >>> _rfc3339(1_700_000_000_250)
    '2023-11-14T22:13:20.250+00:00'
    """
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")


async def _post(session: aiohttp.ClientSession, url: str, body: bytes, sent: dict[str, str]) -> None:
    try:
        async with session.post(url, data=body, headers=sent, allow_redirects=False) as answer:
            status = answer.status
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise AwayError(type(error).__name__) from error  # its text may have the address, a secret
    if status in RETRIED_STATUS or status >= 500:
        raise AwayError(f"status {status}")
    if status >= 300:
        raise RefusedError(f"status {status}")
