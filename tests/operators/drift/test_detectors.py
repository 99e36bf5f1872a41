"""Detectors are River's; alarms are counted once and know their direction."""

from __future__ import annotations

import pickle
import random

import pytest
from river import drift

from operators.drift.detectors import RECENT_MAX, Detectors, Drift
from topics.errors import DefinitionError
from topics.messages import Example


def watching(*drifts):
    return Detectors(drifts, pickle.dumps, pickle.loads)


def bits(seed, *parts):
    rng = random.Random(seed)
    return [float(rng.random() < p) for p, size in parts for _ in range(size)]


def alarms(watch, values):
    return [
        (n, alarm) for n, value in enumerate(values) for alarm in watch.update_loss(value, wrong=value > 0.5)
    ]


def example(label=True, **features):
    return Example("e", "k", 0, 0, label, features, {}, None, "champion", "a", 0, 0, 0, claim=1, sequence=0)


@pytest.mark.parametrize(
    "detector", [drift.ADWIN(), drift.PageHinkley(), drift.binary.DDM(), drift.binary.HDDMW()]
)
def test_alarms_are_rivers_own(detector):
    values = bits(1, (0.2, 2_000), (0.5, 2_000), (0.2, 2_000))
    own = detector.clone()
    expected = []
    for n, value in enumerate(values):
        own.update(bool(value) if isinstance(detector, (drift.binary.DDM, drift.binary.HDDMW)) else value)
        if own.drift_detected:
            expected.append(n)
    watch = watching(Drift(detector))
    assert expected, "a vacuous test otherwise"
    assert [n for n, _ in alarms(watch, values)] == expected
    assert watch.detections == {(type(detector).__name__, "loss"): len(expected)}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("detector", [drift.ADWIN(), drift.PageHinkley()])
def test_a_fall_is_an_improvement_and_a_rise_is_not(detector, seed):
    rise = alarms(watching(Drift(detector)), bits(seed, (0.2, 5_000), (0.5, 1_000)))
    fall = alarms(watching(Drift(detector)), bits(seed, (0.5, 5_000), (0.2, 1_000)))
    first_rise = next(alarm for n, alarm in rise if n >= 5_000)
    first_fall = next(alarm for n, alarm in fall if n >= 5_000)
    assert (first_rise.improved, first_fall.improved) == (False, True)
    assert first_rise.before == pytest.approx(0.2, abs=0.1)
    assert first_rise.after > first_rise.before


def test_an_early_alarm_compares_halves():
    [(n, alarm), *_] = alarms(watching(Drift(drift.ADWIN(clock=1))), [0.0] * 40 + [1.0] * 40)
    assert n < RECENT_MAX
    assert alarm.before < alarm.after
    assert alarm.examples == n + 1


def test_a_binary_detector_sees_wrong_answers():
    watch = watching(Drift(drift.binary.DDM()))
    for _ in range(500):
        assert watch.update_loss(0.9, wrong=False) == []


def test_labels_and_features_have_detectors_of_their_own():
    watch = watching(Drift(drift.ADWIN(), on="label"), Drift(drift.ADWIN(), on="feature:speed"))
    found = []
    for n in range(4_000):
        changed = n >= 2_000
        found += watch.update(example(label=changed, speed=float(not changed)), None, wrong=False)
    assert {alarm.on for alarm in found} == {"label", "feature:speed"}
    assert not any(alarm.improved for alarm in found), "only a loss can improve"


def test_missing_and_text_features_are_left_out():
    watch = watching(Drift(drift.ADWIN(), on="feature:speed"))
    assert watch.update(example(), None, wrong=False) == []
    assert watch.update(example(speed="fast"), None, wrong=False) == []


def test_another_champion_is_another_stream():
    watch = watching(Drift(drift.ADWIN()), Drift(drift.ADWIN(), on="label"))
    for _ in range(2_000):
        watch.update(example(), 0.1, wrong=False)
    watch.start_over()
    found = []
    for _ in range(2_000):
        found += watch.update(example(), 0.9, wrong=True)
    assert found == []


@pytest.mark.parametrize("cut", [0, 500, 1_050])
def test_restored_detectors_go_on_as_they_were(cut):
    values = bits(7, (0.2, 1_000), (0.6, 1_000))
    drifts = (Drift(drift.ADWIN()), Drift(drift.PageHinkley()), Drift(drift.binary.DDM()))
    whole, again, entries = watching(*drifts), watching(*drifts), {}
    found = []
    for value in values[:cut]:
        found += whole.update_loss(value, wrong=value > 0.5)
        entries |= whole.delta()
    entries |= whole.delta()
    assert whole.delta() == {}
    again.restore(entries)
    for value in values[cut:]:
        alarm = whole.update_loss(value, wrong=value > 0.5)
        assert again.update_loss(value, wrong=value > 0.5) == alarm
        found += alarm
    assert found


def test_the_users_detector_is_cloned():
    mine = drift.ADWIN()
    alarms(watching(Drift(mine)), [0.5] * 100)
    assert mine.width == 0


def test_an_unknown_subject_is_refused():
    with pytest.raises(DefinitionError, match="cannot watch `weather`"):
        Drift(drift.ADWIN(), on="weather")
