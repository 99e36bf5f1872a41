"""What leaves an owner for the internal topics: numbered by its claim, left out where the log has it.

Lives here: building those records.  Never here: what they say, when they are due (`router.py`,
`enricher.py`).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from operators.claims.rule import Writer
from operators.claims.suppression import LoggedMessages
from topics.messages import Outgoing
from topics.rekeying import RekeyingMessage, message_id

__all__ = ["RekeyingOutbox"]


class RekeyingOutbox:
    """Outgoing records of one owner, in order for each log."""

    def __init__(self, writer: Writer, logged: LoggedMessages) -> None:
        self.writer = writer
        self.logged = logged
        self.now_ms = 0
        """Wall clock of the shell: the record's timestamp, so that retention counts from the writing."""
        self._out: list[Outgoing] = []
        self._encode = msgspec.json.Encoder().encode

    def send(
        self, target: Literal["rekey", "rekeyed"], partition: int, key: bytes | None, message: RekeyingMessage
    ) -> None:
        """Send one record, unless it stands in the log."""
        if not self.logged.empty and (found := message_id(message)) is not None and self.logged.once(found):
            return
        message.claim = self.writer.claim
        message.sequence = self.writer.next((target, partition))
        self._out.append(Outgoing(target, partition, key, self._encode(message), (), self.now_ms))

    def drain(self) -> list[Outgoing]:
        """Return what has gathered since the last call."""
        out, self._out = self._out, []
        return out
