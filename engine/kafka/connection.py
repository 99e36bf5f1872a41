"""Connections to brokers: sending over one that was reset raises the error of a lost connection.

Lives here: a check before aiokafka writes to a socket.  Never here: what is sent, what is tried
again (`client.py`, and aiokafka itself).

Strategy: a broker that dies resets its connections.  The event loop closes the transport at once; aiokafka
0.14 closes its connection two turns of the loop later and takes it for open until then.  A write in between
is dropped by asyncio's loop, but uvloop raises RuntimeError (aiokafka#1038), which aiokafka does not catch:
the background task that was writing ends.  The producer's, the fetcher's and the coordinator's end the
worker.  The end of the one that updates the metadata is not even noticed: every wait for metadata, and so
every request that is tried again, then hangs, although the broker is back.  So a connection whose transport
is closing is closed before it is written to.
"""

from __future__ import annotations

from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError

__all__ = ["install_connection_check"]

_send_of_aiokafka = AIOKafkaConnection.send


def install_connection_check() -> None:
    """Set the check before every request of this process.  Once is enough, twice does no harm."""
    AIOKafkaConnection.send = _send


def _send(connection: Any, request: Any, expect_response: bool = True) -> Any:
    """Send a request as aiokafka does, and return what it returns: an awaitable of the response.

    Raises KafkaConnectionError if the broker has reset the connection.
    """
    writer = connection._writer
    if writer is not None and writer.is_closing():
        connection.close(reason=CloseReason.CONNECTION_BROKEN)
        raise KafkaConnectionError(f"Connection at {connection.host}:{connection.port} was reset")
    return _send_of_aiokafka(connection, request, expect_response)
