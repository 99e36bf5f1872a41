"""Order, and the outside world.

The names below are what a user's file needs besides the feature language of `operators`.
"""

from engine.pipeline import Labels, Pipeline, Topic
from operators.drift import Drift
from operators.evidence import Promotion
from operators.rules import Alerts, Rule

__all__ = ["Alerts", "Drift", "Labels", "Pipeline", "Promotion", "Rule", "Topic"]
