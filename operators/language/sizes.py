"""How large an answer or an example can get, by the definition alone.

Lives here: a bound of the bytes of one message.  Never here: what topics take
(`engine/kafka/topic_admin.py`), memory (`plan.py`).

What is not bounded by a definition is how many classes a label has, and so a score of several classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

import msgspec

from operators.language.feature_types import feature_types
from operators.language.fields import Field, nodes
from operators.language.plan import FeaturePlan
from operators.language.transforms import Cross
from topics.codec import BYTES_MAX, TEXT_MAX

__all__ = ["message_bytes_max"]

FIXED_BYTES: Final = 16_384
"""Ids, key, label, names, times, numbers: each text of them has TEXT_MAX characters at most."""
NUMBER_BYTES: Final = 32
TEXT_BYTES: Final = 6 * TEXT_MAX
"""A character takes 6 bytes of JSON at most."""


def message_bytes_max(plan: FeaturePlan, event_type: type[msgspec.Struct], names: Iterable[str]) -> int:
    """Return how many bytes an answer, or an example, takes at most; `names` are of models and of rules.

    The text of a field is bounded by its event, and an event holds all of its fields together.

    >>> from operators.language.by import by, field
    >>> from operators.language.plan import compile_features
    >>> class Payment(msgspec.Struct):
    ...     card: str
    ...     amount: float
    >>> def largest(**features):
    ...     plan = compile_features(features, Payment, grace_ms=0, max_events_per_key=9, task="binary")
    ...     return message_bytes_max(plan, Payment, ["linear"])
    >>> largest(amount=field("amount"), n=by("card").count("1h")) - FIXED_BYTES
    174
    >>> largest(card=field("card")) - FIXED_BYTES - BYTES_MAX < 2_000
    True
    """
    size = FIXED_BYTES + sum(6 * len(name) + NUMBER_BYTES for name in names)
    copies: Counter[str] = Counter()
    for name, python_type in feature_types(plan, event_type).items():
        size += 6 * len(name) + NUMBER_BYTES
        if python_type is str:
            found = list(nodes(dict(plan.features)[name]))
            size += TEXT_BYTES
            times = 2 if any(isinstance(node, Cross) for node in found) else 1
            for field in {node.name for node in found if isinstance(node, Field)}:
                copies[field] += times
    return size + BYTES_MAX * max(copies.values(), default=0)
