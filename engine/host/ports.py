"""The check that the port of a process's pages is free, before anything is started.

Lives here: whether it can be listened on, and what is said where not.  Never here: who listens (Faust in
`app.py`, Prometheus' server in `skew.py`).
"""

from __future__ import annotations

import errno
import socket

from topics.errors import SettingsError

__all__ = ["check_port"]


def check_port(host: str, port: int, *, hint: str) -> None:
    """Raise SettingsError, with `hint`, if `host` and `port` cannot be listened on at this moment."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, socket_type, protocol, _, address = found[0]
        with socket.socket(family, socket_type, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as asyncio's servers do
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        reason = "another process listens there" if taken else error.strerror
        raise SettingsError(f"the pages cannot be served on {host}:{port}: {reason}", hint=hint) from error
