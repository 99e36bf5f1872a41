"""What two load tests differ in: planted differences are found, and noise is taken for noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from engine.cli.main import app
from loadtest.bench.compare import MEASURES, RUNS_MIN, LoadComparison, LoadRun, compare_loads, read_runs
from loadtest.bench.compare_command import WORSE
from loadtest.bench.ledger import Latency
from loadtest.bench.slices import Slice
from topics.errors import SettingsError

SECONDS, PER_SLICE = 32, 200


def run_of(
    rng: np.random.Generator, *, slower: float = 1.0, dearer: float = 1.0, noise: float = 0.1, **more: Any
) -> LoadRun:
    """A run of lognormal latencies, whose level wanders from slice to slice as that of a real one does."""
    level, slices = 0.0, []
    for second in range(SECONDS):
        level = 0.5 * level + rng.normal(0.0, noise)
        latency = Latency()
        for value_us in rng.lognormal(8.0 + level, 0.8, size=PER_SLICE) * slower:
            latency.record(int(value_us * 1_000))
        slices.append(
            Slice(
                at_s=float(second),
                seconds=1.0,
                answered=PER_SLICE + int(rng.integers(-3, 4)),
                waiting=0,
                p50_ms=None,
                p99_ms=None,
                cpu_s=0.1 * dearer * float(np.exp(rng.normal(0.0, 0.05))),
                rss_mb=100.0,
                histogram=latency.encoded(),
            )
        )
    given = {"pipeline": "fraud", "rate": 200.0, "duration_s": 32.0, "warmup_s": 2.0, "machine": "m"}
    return LoadRun(**{**given, "lost": 0, "mismatched": 0, **more}, slices=slices)


def judged(found: LoadComparison) -> dict[str, str]:
    return {one.measure: one.judged for one in found.differences}


def test_a_planted_difference_is_found_where_it_was_planted() -> None:
    rng = np.random.default_rng(1)
    before, after = run_of(rng, noise=0.05), run_of(rng, noise=0.05, slower=2.0, dearer=1.3)
    found = compare_loads([before], [after], tolerance=0.05)
    assert judged(found) == {
        "answers_per_s": "same",
        "p50_ms": "worse",
        "p99_ms": "worse",
        "cpu_ms_per_answer": "worse",
    }
    truth = {"answers_per_s": 1.0, "p50_ms": 2.0, "p99_ms": 2.0, "cpu_ms_per_answer": 1.3}
    assert all(one.low < truth[one.measure] < one.high for one in found.differences)
    assert judged(compare_loads([after], [before], tolerance=0.05))["p99_ms"] == "better"
    assert found.unit == "slices"
    assert "append more runs" in found.notes[0]


def test_of_fifty_pairs_without_a_difference_few_are_told_apart() -> None:
    """Two or three would be by the promise, which a level that wanders as fast as this one stretches."""
    rng = np.random.default_rng(7)
    runs = [run_of(rng) for _ in range(100)]
    told = [
        pair
        for pair in range(50)
        if {"worse", "better"}
        & set(judged(compare_loads([runs[pair]], [runs[pair + 50]], tolerance=0.0)).values())
    ]
    assert len(told) <= 7


def test_a_difference_within_the_tolerance_is_the_same() -> None:
    rng = np.random.default_rng(3)
    before, after = run_of(rng, noise=0.02), run_of(rng, noise=0.02, slower=1.06)
    assert judged(compare_loads([before], [after], tolerance=0.0))["p50_ms"] == "worse"
    assert judged(compare_loads([before], [after], tolerance=0.25))["p50_ms"] == "same"


def test_repeated_runs_show_what_slices_cannot() -> None:
    """Starts of a worker differ by 30 %, and nothing else does: slices of one run each call that proven."""
    rng = np.random.default_rng(5)
    starts = np.exp(rng.normal(0.0, 0.3, size=8))
    runs = [run_of(rng, slower=float(level)) for level in starts]
    slowest, fastest = runs[int(starts.argmax())], runs[int(starts.argmin())]
    assert judged(compare_loads([fastest], [slowest], tolerance=0.05))["p50_ms"] == "worse"
    found = compare_loads(runs[:4], runs[4:], tolerance=0.05)
    assert found.unit == "runs"
    assert judged(found)["p50_ms"] == "unclear"
    assert not found.worse


def test_three_repeated_runs_are_enough_for_a_great_difference() -> None:
    rng = np.random.default_rng(6)
    before = [run_of(rng) for _ in range(RUNS_MIN)]
    after = [run_of(rng, dearer=2.0) for _ in range(RUNS_MIN)]
    assert judged(compare_loads(before, after, tolerance=0.1))["cpu_ms_per_answer"] == "worse"


def test_percentiles_are_those_of_all_latencies() -> None:
    rng = np.random.default_rng(2)
    run, whole = run_of(rng), Latency()
    for one in run.timed:
        whole.merge(one.histogram)
    summary = whole.summary_ms()
    found = {one.measure: one.a for one in compare_loads([run], [run], tolerance=0.0).differences}
    assert len(whole) == PER_SLICE * len(run.timed)
    assert (found["p50_ms"], found["p99_ms"]) == pytest.approx((summary["p50"], summary["p99"]), rel=2e-3)


def test_what_was_not_measured_is_said_and_not_judged() -> None:
    run = run_of(np.random.default_rng(4))
    live = msgspec.structs.replace(
        run, slices=[msgspec.structs.replace(one, cpu_s=None) for one in run.slices], machine="other"
    )
    found = compare_loads([run], [live], tolerance=0.05)
    assert judged(found).keys() == MEASURES.keys() - {"cpu_ms_per_answer"}
    assert found.notes[1:] == (
        "the machines differ: m; other",
        "not measured on both sides: cpu_ms_per_answer",
    )


def test_runs_of_different_loads_and_short_ones_are_refused() -> None:
    run = run_of(np.random.default_rng(4))
    with pytest.raises(SettingsError, match="200/s for 32 s; fraud, steady, 300/s"):
        compare_loads([run], [msgspec.structs.replace(run, rate=300.0)], tolerance=0.05)
    with pytest.raises(SettingsError, match="a side has 9 slices after the warm-up, at least 12"):
        compare_loads([run], [msgspec.structs.replace(run, slices=run.slices[:12])], tolerance=0.05)


@pytest.mark.parametrize(("change", "code"), [({}, 0), ({"slower": 3.0}, WORSE), ({"lost": 2}, 1)])
def test_the_exit_code_is_for_a_build(tmp_path: Path, change: dict[str, Any], code: int) -> None:
    rng = np.random.default_rng(1)
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    files[0].write_bytes(msgspec.json.encode(run_of(rng)))
    files[1].write_bytes(msgspec.json.encode(run_of(rng, **change)))
    done = CliRunner().invoke(app, ["bench", "compare", *map(str, files), "--tolerance", "0.3", "--json"])
    assert done.exit_code == code, done.output
    assert msgspec.json.decode(done.stdout)["worse"] == bool(code)
    told = CliRunner().invoke(app, ["bench", "compare", *map(str, files), "--tolerance", "0.3"])
    assert told.exit_code == code
    assert ("B is worse" in told.stdout) == bool(code)


@pytest.mark.parametrize("text", ["", "{}\n", "[1]\n", '{"rate": "fast"}\n'])
def test_a_file_without_runs_is_refused_by_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(SettingsError, match=str(file)):
        read_runs(file)
