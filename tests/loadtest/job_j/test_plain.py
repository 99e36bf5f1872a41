"""The data set of job J is what the figures say, and the plain job is exact."""

import itertools
from collections import Counter

import orjson
import pytest

from loadtest.job_j.plain import LENGTH_MS, SPANS_MS, START_MS, features_of, make_events


@pytest.fixture(scope="module")
def zipf():
    return [orjson.loads(value) for value in make_events(20_000, "zipf")]


def test_the_same_seed_gives_the_same_bytes():
    assert make_events(100, seed=1) == make_events(100, seed=1)
    assert make_events(100, seed=1) != make_events(100, seed=2)


def test_times_are_different_whole_milliseconds_in_order(zipf):
    times = [event["ts"] for event in zipf]
    assert all(earlier < later for earlier, later in itertools.pairwise(times))
    assert times[0] >= START_MS
    assert times[-1] < START_MS + LENGTH_MS


def test_cards_and_labels_are_shared_out_as_described(zipf):
    hottest = Counter(event["card"] for event in zipf).most_common(1)[0][1]
    assert hottest / len(zipf) == pytest.approx(0.13, abs=0.01)
    assert sum(event["label"] for event in zipf) / len(zipf) == pytest.approx(0.11, abs=0.01)
    uniform = [orjson.loads(value)["card"] for value in make_events(20_000, "uniform")]
    assert len(set(uniform)) > 15_000


def test_more_events_than_milliseconds_are_refused():
    with pytest.raises(ValueError, match="distinct"):
        make_events(LENGTH_MS + 1)


def test_the_plain_job_equals_a_brute_force_count():
    values = make_events(600)
    events = [orjson.loads(value) for value in values]
    # Ten times slower, so that events leave the windows within this short prefix.
    slow = [orjson.dumps({**event, "ts": START_MS + (event["ts"] - START_MS) * 10}) for event in events]
    seen = []
    for value, (features, label) in zip(slow, features_of(slow), strict=True):
        event = orjson.loads(value)
        seen.append(event)
        assert features["amount"] == event["amount"]
        assert label is event["label"]
        for name, span_ms in SPANS_MS.items():
            amounts = [
                earlier["amount"]
                for earlier in seen
                if earlier["card"] == event["card"] and event["ts"] - span_ms < earlier["ts"] <= event["ts"]
            ]
            assert features["count_" + name] == len(amounts)
            assert features["max_" + name] == max(amounts)
            assert features["sum_" + name] == pytest.approx(sum(amounts), rel=1e-9)
            assert features["mean_" + name] == pytest.approx(sum(amounts) / len(amounts), rel=1e-9)
