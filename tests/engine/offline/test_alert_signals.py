"""Alerts about what monitors see: every number has a name, and every name a monitor that keeps it."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from river import linear_model
from test_behaviour_told import WATCHED, files, pipeline

import operators.monitor
from engine import Alert, Reservoir, Split, signal
from engine.definition.monitoring import DECLARED_BY, monitor_settings
from engine.offline.backtest import LocalRun, Playing
from engine.worker.assembly import build_learner
from operators.language.signals import SIGNALS, monitor_of
from topics.errors import DefinitionError

OF_MONITORS = {name for name in SIGNALS if monitor_of(name)}
EVERYTHING: dict[str, Any] = WATCHED | {
    "slices": ["origin"],
    "reservoir": Reservoir(),
    "serving": Split({"linear": 0.9, "other": 0.1}),
}
FAILING = Alert(when=signal("tests.failing") > 0)


def kinds() -> set[type]:
    """Return the settings of every monitor there is: classes of the package that make one."""
    found: set[type] = set()
    for module in pkgutil.walk_packages(operators.monitor.__path__, "operators.monitor."):
        for one in vars(import_module(module.name)).values():
            if isinstance(one, type) and one.__module__ == module.name and not is_protocol(one):
                found |= {one} if callable(getattr(one, "monitor", None)) else set()
    return found


def is_protocol(one: type) -> bool:
    return bool(getattr(one, "_is_protocol", False))


def test_every_number_of_a_monitor_can_be_watched_and_every_name_has_one(tmp_path: Path) -> None:
    declared = pipeline(**EVERYTHING, alerts=[FAILING])
    settings = dict(monitor_settings(declared))
    assert {type(one) for one in settings.values()} == kinds(), "a monitor is missing in this test"
    run = LocalRun(declared, keep_examples=True)
    Playing(run).play_files(*files(tmp_path, 2_500))
    assert set(run.learner.monitors.signals()) == OF_MONITORS
    assert {monitor_of(name) for name in OF_MONITORS} == DECLARED_BY.keys() <= settings.keys()
    learner = build_learner(declared)
    learner.fold(list(run.examples or ()))
    assert learner.alerts is not None
    told = learner.alerts.take()
    assert [(one.policy, one.state) for one in told] == [("tests.failing", "firing")]
    assert told[0].says.startswith("tests.failing is 1, above 0: tests of models that the champion fails")


@pytest.mark.parametrize("name", sorted(OF_MONITORS))
def test_what_no_monitor_keeps_is_refused(name: str) -> None:
    alerts = [Alert(when=signal(name) > 0)]
    pipeline(**EVERYTHING, alerts=alerts)
    with pytest.raises(DefinitionError, match="by a monitor that this pipeline has not") as caught:
        pipeline(calibration=None, estimate=None, alerts=alerts)
    assert DECLARED_BY[monitor_of(name)] in (caught.value.hint or "")


def test_what_is_kept_of_classes_is_refused_for_a_regression() -> None:
    numbers = {"a": linear_model.LinearRegression()}
    with pytest.raises(DefinitionError, match="has not") as caught:
        pipeline(models=numbers, champion="a", alerts=[Alert(when=signal("calibration.error") > 0.1)])
    assert "the task is regression" in (caught.value.hint or "")
