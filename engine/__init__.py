"""Order, and the outside world.

The names below are what a user's file needs besides the feature language of `operators`.  They are
imported when they are asked for, so that commands that load no pipeline start at once: River alone
takes more than a second.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.pipeline import Pipeline
    from engine.streams import Labels, Topic
    from operators.drift import Drift
    from operators.evidence import Promotion
    from operators.rules import Alerts, Rule

__all__ = ["Alerts", "Drift", "Labels", "Pipeline", "Promotion", "Rule", "Topic"]

_HOMES = {
    "Alerts": "operators.rules",
    "Drift": "operators.drift",
    "Labels": "engine.streams",
    "Pipeline": "engine.pipeline",
    "Promotion": "operators.evidence",
    "Rule": "operators.rules",
    "Topic": "engine.streams",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value
