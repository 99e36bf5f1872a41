"""The run that is measured answers, learns and watches every event."""

import json

from engine.offline.backtest import LocalRun
from loadtest.shift.whole_path import BLOCK_MS, cost_us, definition, stream
from operators.drift.watch import Watch


def test_what_is_measured_is_watched() -> None:
    run = LocalRun(definition(Watch(block="1h", reference_span="14h")))
    records = stream(250, 50)
    run.scorer.intake.offer_events(records)
    while run.advance() is not None:
        pass
    assert run.examples_learned == 250
    numbers = {json.loads(record.value or b"")["event_time"] // BLOCK_MS for record in records}
    assert run.learner.counts["shift_blocks", "folded"] == len(numbers) - 1, "the last one is open"


def test_a_run_takes_time() -> None:
    without, _ = cost_us(100, 50, 1)
    assert without > 0
