"""The tree of all errors that Headrace raises on purpose.

Six types, one with a kind of its own, under one base that nobody can raise.  Each says what happened, where
(topic, partition, offset, field: whatever is known) and what to do (`hint`).
Bad *records* are not errors but dead letters (`topics.codec.Rejected`): nothing
here is raised for a single bad message.
"""

from __future__ import annotations

__all__ = [
    "BrokerError",
    "CheckpointError",
    "ClaimError",
    "DefinitionError",
    "HeadraceError",
    "ModelError",
    "SettingsError",
    "StoreUnavailableError",
]


class HeadraceError(Exception):
    """Base of every error Headrace raises on purpose; never raised itself."""

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        topic: str | None = None,
        partition: int | None = None,
        offset: int | None = None,
    ) -> None:
        if type(self) is HeadraceError:
            raise TypeError("raise one of HeadraceError's subclasses")
        self.message = message
        self.hint = hint
        self.topic = topic
        self.partition = partition
        self.offset = offset
        super().__init__(str(self))

    def __str__(self) -> str:
        where = " ".join(
            f"{name} {value}"
            for name, value in (
                ("topic", self.topic),
                ("partition", self.partition),
                ("offset", self.offset),
            )
            if value is not None
        )
        text = f"{self.message} ({where})" if where else self.message
        return f"{text}\n  fix: {self.hint}" if self.hint else text


class DefinitionError(HeadraceError):
    """The user's pipeline is wrong: a field, a window, a key, a model."""


class SettingsError(HeadraceError):
    """The surroundings are wrong: an address, a flag, a missing package."""


class BrokerError(HeadraceError):
    """Kafka said no, or topics are not as they must be."""


class CheckpointError(HeadraceError):
    """A checkpoint cannot be written, read or trusted."""


class StoreUnavailableError(CheckpointError):
    """A store does not answer or refuses now; the same may succeed later."""


class ClaimError(HeadraceError):
    """Another owner writes where this one thought it might."""


class ModelError(HeadraceError):
    """A model cannot be stored, loaded or used."""
