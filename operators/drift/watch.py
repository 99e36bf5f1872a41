"""`Watch`: what a definition says about watching for shift.

Lives here: the settings and their refusals.  Never here: samples, tests, verdicts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from topics.durations import Duration, duration_ms
from topics.errors import DefinitionError

__all__ = ["BLOCKS_MAX", "BLOCKS_MIN", "BLOCKS_OPEN_MAX", "Reference", "Watch", "check_watch"]

Reference = Literal["training", "sliding", "hour_of_week"]
BLOCKS_MIN: Final = 14
"""Blocks of a reference: with fewer, nobody can say what is usual."""
BLOCKS_MAX: Final = 400
"""Some 4 KB each for 20 features."""
BLOCKS_OPEN_MAX: Final = 64
"""Blocks of a partition that its scorer samples at once: those that `grace` keeps open."""
ROWS_MAX: Final = 5_000
WEEK_MS: Final = 7 * 86_400_000


@dataclass(frozen=True)
class Watch:
    """Watch features, scores and labels for shift; one verdict at a time, one budget of false alarms.

    What is served is looked at in blocks of event time.  A block is compared with the blocks of the
    reference, as far as these differ among themselves: so a season within a block, days that resemble their
    neighbours and bursts are part of what is usual, and no test takes rows for independent.

    `reference`
        What blocks are compared with: `"training"` (the first `reference_span`, and after a verdict that
        lasted as long, the span since), `"sliding"` (the last `reference_span`, whatever it was) or
        `"hour_of_week"` (the same, but each block with those of the same place in the week).
    `reference_span`
        How much of the stream is the reference; 14 to 400 blocks.
    `block`
        The span of one comparison, as long as the longest season that is no news: with `"1d"`, the hours of a
        day.
    `false_alarm_every`
        The promise: on a stream that does not shift, the mean time between two verdicts is at least as long.
    `rows_max`
        Sampled rows of one block and partition.
    """

    reference: Reference = "training"
    reference_span: Duration = "28d"
    block: Duration = "1d"
    false_alarm_every: Duration = "30d"
    rows_max: int = 500

    def __post_init__(self) -> None:
        """Refuse what cannot be kept.  Raises DefinitionError."""
        if self.reference not in {"training", "sliding", "hour_of_week"}:
            raise DefinitionError(
                f"watch.reference={self.reference!r}", hint='use "training", "sliding" or "hour_of_week"'
            )
        if not self.block_ms:
            raise DefinitionError("watch.block has no length", hint='write a span such as "1d"')
        if not BLOCKS_MIN <= self.reference_blocks <= BLOCKS_MAX:
            raise DefinitionError(
                f"watch.reference_span holds {self.reference_blocks} blocks of {self.block!r}",
                hint=f"a reference has {BLOCKS_MIN} to {BLOCKS_MAX} blocks: change reference_span or block",
            )
        if self.reference == "hour_of_week" and WEEK_MS % self.block_ms:
            raise DefinitionError(
                f"blocks of {self.block!r} have no place in the week",
                hint='give watch.block a length that divides a week, such as "1h" or "1d"',
            )
        if duration_ms(self.false_alarm_every) < self.block_ms:
            raise DefinitionError(
                f"watch.false_alarm_every={self.false_alarm_every!r} is shorter than a block",
                hint="verdicts are given at ends of blocks: promise a longer time, or shorten watch.block",
            )
        if not 50 <= self.rows_max <= ROWS_MAX:
            raise DefinitionError(
                f"watch.rows_max={self.rows_max!r}", hint=f"sample 50 to {ROWS_MAX} rows of a block"
            )

    @property
    def block_ms(self) -> int:
        """Return the length of a block in ms."""
        return duration_ms(self.block)

    @property
    def reference_blocks(self) -> int:
        """Return the number of blocks of the reference."""
        return duration_ms(self.reference_span) // self.block_ms

    @property
    def false_alarm_blocks(self) -> float:
        """Return the promised mean number of blocks between two false alarms."""
        return duration_ms(self.false_alarm_every) / self.block_ms


def check_watch(watch: Watch, *, grace_ms: int) -> None:
    """Refuse a block that is too short for late events.  Raises DefinitionError."""
    if grace_ms > (BLOCKS_OPEN_MAX - 2) * watch.block_ms:
        raise DefinitionError(
            f"watch.block={watch.block!r} is too short for events that may come {grace_ms} ms late",
            hint=f"at most {BLOCKS_OPEN_MAX - 2} blocks may be open at once: lengthen watch.block",
        )
