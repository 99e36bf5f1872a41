"""Headrace under one name: what a pipeline file imports, `from headrace import Pipeline, Topic, by, field`,
and what a notebook calls, `headrace.backtest`.

Lives here: those names, and the care for where they come from.  Never here: anything they do
(`engine/`, `operators/`).

Read in this order: this file, `client` (names for programs that read answers), then `__main__` (the command).

`engine` and `topics` are names that a user's own folder may have, and Python takes whichever lies first on
its path.  So this package imports Headrace's four from beside itself, wherever the path leads, and refuses
to go on where another one has been imported before.  The names are imported when they are asked for, as in
`engine`: River alone takes more than a second.
"""

import sys
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine import (
        Alert,
        Artefact,
        Bandit,
        Blend,
        Calibration,
        Canary,
        Candidate,
        Challenge,
        Directional,
        Drift,
        Drifted,
        Estimated,
        Every,
        FailureGuard,
        Fair,
        Feedback,
        Guard,
        Importance,
        Invariant,
        Labels,
        LatencyGuard,
        Perturbed,
        Pipeline,
        Promotion,
        Quantile,
        Queries,
        Release,
        Reservoir,
        Rule,
        Serve,
        Shadow,
        Split,
        Switchback,
        Topic,
        Trust,
        Watch,
        Weak,
        Worse,
        Worst,
        changed_schema,
        decided,
        new_category,
        signal,
        usual_alerts,
    )
    from engine.offline.runs.results import run_backtest as backtest
    from operators import (
        apply,
        by,
        coalesce,
        cross,
        decay,
        feature,
        field,
        indicator,
        label,
        last_n,
        lookup,
        position,
        session,
        tiled,
        tumbling,
    )

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
    "apply",
    "backtest",
    "by",
    "changed_schema",
    "coalesce",
    "cross",
    "decay",
    "decided",
    "feature",
    "field",
    "indicator",
    "label",
    "last_n",
    "lookup",
    "new_category",
    "position",
    "session",
    "signal",
    "tiled",
    "tumbling",
    "usual_alerts",
]

_ROOMS = ("topics", "operators", "engine", "loadtest")


def _take_rooms(home: Path) -> None:
    """Import the four packages that lie in `home`.  Raises ImportError where another has a name of theirs."""
    for room in _ROOMS:
        loaded = sys.modules.get(room)
        if loaded is None:
            spec = PathFinder.find_spec(room, [str(home)])
            if spec is None or spec.loader is None:
                raise ImportError(f"Headrace's package {room!r} is not in {home}; fix: install headrace anew")
            loaded = sys.modules[room] = module_from_spec(spec)
            try:
                spec.loader.exec_module(loaded)
            except BaseException:
                del sys.modules[room]
                raise
        elif loaded.__file__ is None or Path(loaded.__file__).resolve().parent != home / room:
            place = loaded.__file__ or ", ".join(loaded.__path__)
            raise ImportError(
                f"{room!r} is a package of Headrace, and {place} has been imported under its name; "
                f"fix: rename that one, or `import headrace` first"
            )


_take_rooms(Path(__file__).resolve().parents[1])

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        operators, engine = sys.modules["operators"], sys.modules["engine"]
        if name == "backtest":  # with all that a run needs
            value = globals()[name] = import_module("engine.offline.runs.results").run_backtest
            return value
        value = globals()[name] = getattr(operators if name in operators.__all__ else engine, name)
        return value
