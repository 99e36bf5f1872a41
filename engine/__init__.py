"""Order, and the outside world.

The names below are what a user's file needs besides the feature language of `operators`.
"""

from engine.pipeline import Labels, Pipeline, Topic
from operators.drift import Drift
from operators.evidence import Promotion

__all__ = ["Drift", "Labels", "Pipeline", "Promotion", "Topic"]
