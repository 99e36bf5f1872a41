"""Why no broker let a client in: what aiokafka says of a first connection, which is in its log alone.

Lives here: hearing it, what of it cannot get better by waiting, the fix.  Never here: connecting
(`client.py`).

aiokafka catches whatever ends a first connection, writes it to its log as an argument of the line, and
raises that it is "unable to bootstrap".  A wrong password must not look like a broker that is down.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from aiokafka import errors as kafka_errors

from engine.settings import KafkaSettings

__all__ = ["Attempt", "hint_for", "is_final", "watched"]

_LINE = 'Unable connect to "%s:%s": %s'
_log_of_aiokafka = logging.getLogger("aiokafka")
_FINAL = (
    kafka_errors.SaslAuthenticationFailed,
    kafka_errors.UnsupportedSaslMechanismError,
    kafka_errors.IllegalSaslStateError,
    ssl.SSLError,
)
"""What a broker that is up says to the wrong password or certificate: it would say so again."""


class Attempt(logging.Filter):
    """One attempt of a client to connect: why the last address that was tried did not take it."""

    def __init__(self) -> None:
        super().__init__()
        self.reason: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep the reason of aiokafka's line, and the line from the log: the error will say it."""
        arguments = record.args
        if record.msg != _LINE or not isinstance(arguments, tuple):
            return True
        reason = arguments[-1]
        self.reason = reason if isinstance(reason, BaseException) else None
        return False


@contextmanager
def watched() -> Iterator[Attempt]:
    """Listen for the block to why connections fail."""
    attempt = Attempt()
    _log_of_aiokafka.addFilter(attempt)
    try:
        yield attempt
    finally:
        _log_of_aiokafka.removeFilter(attempt)


def is_final(reason: BaseException | None) -> bool:
    """Return whether a broker has refused who asks: trying again would not help.

    >>> is_final(kafka_errors.SaslAuthenticationFailed("wrong password")), is_final(TimeoutError())
    (True, False)
    """
    return isinstance(reason, _FINAL)


def hint_for(reason: BaseException, kafka: KafkaSettings) -> str:
    """Return what to do about a connection that failed for `reason`."""
    if isinstance(reason, kafka_errors.UnsupportedSaslMechanismError):
        return "set HEADRACE_KAFKA__SASL_MECHANISM to one that the broker offers"
    if isinstance(reason, _FINAL[:3]):
        return "check HEADRACE_KAFKA__SASL_USERNAME, HEADRACE_KAFKA__SASL_PASSWORD and the mechanism"
    if isinstance(reason, ssl.SSLCertVerificationError):
        return "set HEADRACE_KAFKA__SSL_CA_LOCATION to the authority that signed the broker's certificate"
    if isinstance(reason, ssl.SSLError):
        return "is this the broker's listener for TLS? Check HEADRACE_KAFKA__SECURITY_PROTOCOL and the port"
    if isinstance(reason, kafka_errors.KafkaConnectionError):
        return (
            f"it takes connections and closes them: does it want more than"
            f" HEADRACE_KAFKA__SECURITY_PROTOCOL={kafka.security_protocol}, or a certificate of this client"
            " (HEADRACE_KAFKA__SSL_CERTIFICATE_LOCATION)?"
        )
    return "start it, or set HEADRACE_KAFKA__BOOTSTRAP_SERVERS=host:port"
