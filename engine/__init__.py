"""Order, and the outside world.

Lives here: the definition of a pipeline, the state machines that choose an order, and everything that waits,
reads a clock or can fail because of the world.  Never here: what a message is (`topics`), memory between
events (`operators`).

Read in this order: `definition` (what a pipeline file says), `machines` (scorer and learner, pure),
`worker` (the loop around them), `kafka`, `stores`; then `alerts`, `rekeying`, `group` (the other workers),
`host`, `page` (what a person sees), `offline`, `lineage` (versions and predictions, asked of the logs),
`state` (checkpoints, asked of their stores), `project` (a pipeline from a sample), `local` (all of it on
this machine, for a person at work), `doctor` (is a machine fit), `simulation` (made-up events) and `cli`.
Beside them lie `settings` (the surroundings), `metrics`, `watches`, `race_view` and `monitor_view` (what is
told), `new_folder` and `shipped` (files of commands). `answering` reads answers back, for programs outside.

The names below are what a user's file needs besides the feature language of `operators`.  They are
imported when they are asked for, so that commands that load no pipeline start at once: River alone
takes more than a second.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.definition.pipeline import Pipeline
    from engine.definition.streams import Labels, Topic
    from engine.definition.weak import Weak
    from operators.drift.detectors import Drift
    from operators.drift.watch import Watch
    from operators.join.queries import Queries
    from operators.language.alerts import (
        Alert,
        changed_schema,
        decided,
        new_category,
        signal,
        usual_alerts,
    )
    from operators.language.rules import Rule
    from operators.monitor.before_labels.estimate import Estimated
    from operators.monitor.behaviour.importance import Importance
    from operators.monitor.behaviour.model_tests import Directional, Invariant, Perturbed
    from operators.monitor.calibration import Calibration
    from operators.monitor.fairness import Fair
    from operators.monitor.feedback import Feedback
    from operators.monitor.reservoir import Reservoir
    from operators.monitor.worst import Worst
    from operators.race.blend import Blend
    from operators.race.candidates import Artefact, Candidate, Challenge, Drifted, Every, Release, Worse
    from operators.race.evidence import Promotion
    from operators.race.losses import Quantile
    from operators.race.routing import (
        Bandit,
        Canary,
        FailureGuard,
        Guard,
        LatencyGuard,
        Serve,
        Shadow,
        Split,
        Switchback,
    )
    from operators.trust.sources import Trust

__all__ = [
    "Alert",
    "Artefact",
    "Bandit",
    "Blend",
    "Calibration",
    "Canary",
    "Candidate",
    "Challenge",
    "Directional",
    "Drift",
    "Drifted",
    "Estimated",
    "Every",
    "FailureGuard",
    "Fair",
    "Feedback",
    "Guard",
    "Importance",
    "Invariant",
    "Labels",
    "LatencyGuard",
    "Perturbed",
    "Pipeline",
    "Promotion",
    "Quantile",
    "Queries",
    "Release",
    "Reservoir",
    "Rule",
    "Serve",
    "Shadow",
    "Split",
    "Switchback",
    "Topic",
    "Trust",
    "Watch",
    "Weak",
    "Worse",
    "Worst",
    "changed_schema",
    "decided",
    "new_category",
    "signal",
    "usual_alerts",
]

_HOMES = {
    "Alert": "operators.language.alerts",
    "Artefact": "operators.race.candidates",
    "Bandit": "operators.race.routing",
    "Blend": "operators.race.blend",
    "Calibration": "operators.monitor.calibration",
    "Canary": "operators.race.routing",
    "Candidate": "operators.race.candidates",
    "Challenge": "operators.race.candidates",
    "Directional": "operators.monitor.behaviour.model_tests",
    "Drift": "operators.drift.detectors",
    "Drifted": "operators.race.candidates",
    "Estimated": "operators.monitor.before_labels.estimate",
    "Every": "operators.race.candidates",
    "FailureGuard": "operators.race.routing",
    "Fair": "operators.monitor.fairness",
    "Feedback": "operators.monitor.feedback",
    "Guard": "operators.race.routing",
    "Importance": "operators.monitor.behaviour.importance",
    "Invariant": "operators.monitor.behaviour.model_tests",
    "Labels": "engine.definition.streams",
    "LatencyGuard": "operators.race.routing",
    "Perturbed": "operators.monitor.behaviour.model_tests",
    "Pipeline": "engine.definition.pipeline",
    "Promotion": "operators.race.evidence",
    "Queries": "operators.join.queries",
    "Quantile": "operators.race.losses",
    "Reservoir": "operators.monitor.reservoir",
    "Release": "operators.race.candidates",
    "Rule": "operators.language.rules",
    "Serve": "operators.race.routing",
    "Shadow": "operators.race.routing",
    "Split": "operators.race.routing",
    "Switchback": "operators.race.routing",
    "Topic": "engine.definition.streams",
    "Watch": "operators.drift.watch",
    "Weak": "engine.definition.weak",
    "Trust": "operators.trust.sources",
    "Worse": "operators.race.candidates",
    "Worst": "operators.monitor.worst",
    "changed_schema": "operators.language.alerts",
    "decided": "operators.language.alerts",
    "new_category": "operators.language.alerts",
    "signal": "operators.language.alerts",
    "usual_alerts": "operators.language.alerts",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value
