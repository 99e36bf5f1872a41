"""The soak's own arithmetic: phases, events, what a phase came to, the picture."""

from __future__ import annotations

import json
import xml.etree.ElementTree as Xml
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from engine.definition.file import load_pipeline
from loadtest.soak.__main__ import PIPELINE
from loadtest.soak.course import PHASES, SoakFeed, phases
from loadtest.soak.picture import PANELS, drawn
from loadtest.soak.readings import FIGURES, WorkerReading, figures_by_phase, reading_of

RATE = 50.0
PAGE = """
# TYPE headrace_consumer_lag_records gauge
headrace_consumer_lag_records{topic="a",partition="0"} 3.0
headrace_consumer_lag_records{topic="b",partition="0"} 4.0
# TYPE headrace_checkpoint_duration_seconds histogram
headrace_checkpoint_duration_seconds_count COUNT
headrace_checkpoint_duration_seconds_sum SUM
"""


def reading(seconds: float, rss_mb: float) -> WorkerReading:
    zeros = dict.fromkeys(("descriptors", "lag", "unlearned", "waiting", "window_keys"), 0)
    return WorkerReading(
        seconds=seconds, phase="", rss_mb=rss_mb, **zeros, checkpoint_ms=0.0, store_mb=0.0,
        answered=0, refused=0, checkpoints=(0.0, 0.0),
    )  # fmt: skip


def test_phases_follow_each_other_to_the_end() -> None:
    course = phases(800.0)
    assert [one.begins_s for one in course[1:]] == [one.ends_s for one in course[:-1]]
    assert (course[0].begins_s, course[-1].ends_s) == (0.0, 800.0)
    assert [one.name for one in course] == [name for name, _ in PHASES]


def test_events_are_valid_and_their_keys_are_those_of_the_phase() -> None:
    course = phases(80.0)
    feed, topic = SoakFeed(course, rate=RATE, run="r"), load_pipeline(PIPELINE).events
    keys: dict[str, Counter[bytes]] = {one.name: Counter() for one in course}
    for number in range(int(80 * RATE)):
        event = feed.event(number, 1_700_000_000_000 + number)
        assert msgspec.json.decode(event.value, type=topic.type).event_id == event.event_id
        assert json.loads(event.value)["sensor"].encode() == event.key
        name = next(one.name for one in course if number / RATE < one.ends_s)
        keys[name][event.key] += 1
    assert max(keys["new keys"].values()) == 1
    assert 0.85 < keys["hot key"][b"hot"] / keys["hot key"].total() < 0.95
    assert b"hot" not in keys["steady"] | keys["steady again"]
    assert max(keys["steady"].values()) < 20


def test_a_phase_is_judged_by_its_last_half() -> None:
    """Memory fills in the first half, and grows by 36 MB an hour, 10 kB a second, in the second."""
    course = phases(400.0)
    filling = [reading(float(at), 2.0 * at) for at in range(0, 50, 5)]
    settled = [reading(float(at), 100.0 + 0.01 * (at - 50)) for at in range(50, 100, 5)]
    (steady,) = figures_by_phase(filling + settled, course)
    assert steady.phase == "steady"
    assert steady.slopes_per_hour["rss_mb"] == pytest.approx(36.0, abs=0.1)
    assert steady.medians["rss_mb"] == pytest.approx(100.2, abs=0.1)


def test_a_reading_is_of_a_process_its_page_and_its_files(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "f").write_bytes(bytes(2_000_000))

    def read(count: int, total: float, before: WorkerReading | None) -> WorkerReading:
        text = PAGE.replace("COUNT", str(count)).replace("SUM", str(total))
        pid = int(Path("/proc/self").readlink().name)
        return reading_of(pid, text, tmp_path, seconds=1.0, phase="steady", before=before)

    first = read(2, 0.2, None)
    assert (first.lag, first.checkpoint_ms, first.store_mb) == (7, 100.0, 2.0)
    assert first.rss_mb > 10
    assert first.descriptors > 2
    second = read(3, 0.7, first)
    assert second.checkpoint_ms == 500.0
    assert read(3, 0.7, second).checkpoint_ms == 500.0, "none since"


def test_the_picture_has_a_panel_for_every_figure() -> None:
    course = phases(100.0)
    readings = [reading(float(at), 100.0 + at) for at in range(0, 100, 10)]
    root = Xml.fromstring(drawn(readings, course, "a < b"))
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == len(PANELS) == len(FIGURES)
    assert set(PANELS) == set(FIGURES)
    assert all(len((line.get("points") or "").split()) == len(readings) for line in lines)
