"""Decoding of commands: a command, or the reason why the bytes are none.

Lives here: the size and the words of a command.  Never here: what it does (`operators/race/arena.py`),
other messages (`codec.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import msgspec

from topics.messages import Command, CommandWord

__all__ = ["COMMAND_BYTES_MAX", "command_id", "decode_command"]

COMMAND_BYTES_MAX = 16_384
"""A command is a word, a name and a reason; what is longer is none."""
ID_MAX = 256
"""Characters of a command's id: a thousand of them are remembered."""


class _Identified(msgspec.Struct):
    command_id: str = ""


_command: Callable[[bytes], Command] = msgspec.json.Decoder(Command).decode
_identified: Callable[[bytes], _Identified] = msgspec.json.Decoder(_Identified).decode


def decode_command(value: bytes) -> Command:
    """Return the command.

    >>> decode_command(b'{"command_id": "1", "command": "un", "time": 0}')
    Traceback (most recent call last):
    ValueError: Invalid enum value 'un' - at `$.command`: promote | rollback | pin | unpin | pause | resume

    Raises ValueError with the reason if it is no command.
    """
    if len(value) > COMMAND_BYTES_MAX:
        raise ValueError(f"a command has at most {COMMAND_BYTES_MAX:,} bytes")
    try:
        command = _command(value)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        words = f": {' | '.join(get_args(CommandWord))}" if "at `$.command`" in str(error) else ""
        raise ValueError(f"{error}{words}") from None
    if not 0 < len(command.command_id) <= ID_MAX:
        raise ValueError(f"command_id has 1 to {ID_MAX} characters")
    return command


def command_id(value: bytes) -> str:
    """Return the id in what may be no command, empty where there is none.

    >>> command_id(b'{"command_id": "1", "command": 7}'), command_id(b"un")
    ('1', '')
    """
    try:
        return _identified(value).command_id if len(value) <= COMMAND_BYTES_MAX else ""
    except (ValueError, RecursionError):
        return ""
