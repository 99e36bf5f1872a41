"""The answers that wait for labels at a given rate, and the memory they take, for `headrace check`.

Lives here: the arithmetic.  Never here: how they wait (`operators/join/pending.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from engine.definition.pipeline import Pipeline
from operators.join.entries import WaitingAnswer, encode_entry
from operators.join.pending import RESIDENT_MAX
from topics.messages import FeatureValues, Prediction

__all__ = ["bytes_per_answer", "waiting_at", "waiting_text"]

RATES_PER_S = (1, 10, 100, 1_000)
"""Events per second of one partition."""
ROW_BYTES = 310
"""What names, index and half-filled pages of a checkpoint file add to an answer: measured."""
MEMORY_FACTOR = 2
"""An answer in memory, as objects, beside its bytes on disk: measured with 13 features."""


def bytes_per_answer(pipeline: Pipeline) -> int:
    """Return the bytes of a checkpoint file that an answer takes while it waits, estimated."""
    features: FeatureValues = {name: 0.123456789 for name, _ in pipeline.plan.features}
    event_id, time_ms = "x" * 32, 1_700_000_000_000
    answer = Prediction(
        prediction_id=f"{pipeline.name}:{event_id}",
        event_id=event_id,
        event_time=time_ms,
        prediction_time=time_ms,
        model_name="model",
        model_version=1,
        model_updates=1_000,
        model_alias="champion",
        prediction_score=0.123456789,
        prediction_label=True,
        served_by="champion",
        features=features,
        event_offset=1_000_000,
        claim=1,
        sequence=1_000_000,
    )
    waiting = WaitingAnswer.of(answer, "x" * 12, (), 1 << 31, dict.fromkeys(pipeline.models, 0.123456789))
    return len(encode_entry(waiting)) + ROW_BYTES


def waiting_at(pipeline: Pipeline) -> dict[str, Any]:
    """Return what waits in one partition, at several rates, and the bounds."""
    labels, each = pipeline.labels, bytes_per_answer(pipeline)
    rows = []
    for rate in RATES_PER_S:
        count = rate * labels.wait_ms // 1_000
        held = min(count, labels.pending_max)
        rows.append(
            {
                "events_per_s": rate,
                "waiting": count,
                "given_up": count > labels.pending_max,
                "disk_bytes": held * each,
                "memory_bytes": min(held, RESIDENT_MAX) * each * MEMORY_FACTOR,
            }
        )
    return {
        "pending_max": labels.pending_max,
        "early_max": labels.early_max,
        "bytes_per_answer": each,
        "at_rate": rows,
    }


def waiting_text(waiting: Mapping[str, Any], wait: str) -> Iterator[str]:
    """Yield lines that say what `waiting_at` returned; `wait` is how long an answer waits."""
    bound = waiting["pending_max"]
    yield (
        f"waiting for labels, in each partition: at most {bound:,} answers (pending_max), about "
        f"{waiting['bytes_per_answer']:,} bytes each on disk, and {waiting['early_max']:,} labels that came "
        f"before their events (early_max)"
    )
    for row in waiting["at_rate"]:
        count, rate = row["waiting"], f"{row['events_per_s']:,} events/s are"
        if row["given_up"]:
            yield f"  wait {wait}: {rate} {count:,} waiting answers, more than pending_max"
        else:
            disk, memory = (f"{row[column] / 1e6:,.0f} MB" for column in ("disk_bytes", "memory_bytes"))
            yield f"  wait {wait}: {rate} {count:,} waiting answers, {disk} on disk, {memory} in memory"
