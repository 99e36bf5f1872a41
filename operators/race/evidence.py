"""When has a challenger proven to be better than the champion?

Lives here: the running statistic of every challenger against the present champion.  Never
here: who serves (`arena.py`), models, clocks (label time is an argument).

Strategy: an e-detector, the Shiryaev-Roberts sum of betting e-processes of

    J. Shin, A. Ramdas, A. Rinaldo, "E-detectors: a nonparametric framework for sequential
    change detection" (2022), section 2.3, with the bets of I. Waudby-Smith and A. Ramdas,
    "Estimating means of bounded random variables by betting" (2020).

For each challenger and each betting fraction g, after every block of examples

    d  =  mean over the block of  loss(champion) - loss(challenger)         > 0: challenger better
    z  =  d / (2 x deviation of d over the blocks before), clipped to +-1
    M  =  (M + 1) x (1 + g z)

While the challenger is no better, E[1 + g z] <= 1, so M minus the number of blocks is a
supermartingale and the average number of blocks until the mean of all M (over fractions and
challengers) first reaches a threshold is at least that threshold: under drift, at any moment,
however often one looks, however many challengers there are.  The scale comes from earlier blocks
only, so no block chooses its own bet.  What the promise rests on: clipping must not favour the
challenger.  One that is a little better in nearly every block and, rarely, far worse may win
before its first disaster is seen; `min_examples` is the guard against that.

Labels of one storm come together and are no independent witnesses; that is why a block, not a
label, is one step.  The threshold in blocks is `false_swap_every` over the mean size of a block.

Whether blocks are long enough for that is watched: the lag-1 autocorrelation r of G. E. P. Box and G. M.
Jenkins ("Time Series Analysis", 1970) of neighbouring block means, from six sums.  If blocks follow one
another like a first-order autoregression, (1 + r) / (1 - r) of them carry what one independent block does
(the integrated autocorrelation time); means over twice as many are correlated by less than 0.2, whatever r
was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec

from operators.models.parameters import model_text
from operators.race.losses import Objective, check_objective
from operators.race.routing import Guard
from operators.state import StateEntries, WholeState
from topics.durations import duration_ms, duration_text
from topics.errors import DefinitionError

__all__ = ["Evidence", "Promotion", "Verdict"]

BETS = (0.2, 0.5, 0.8)
"""Fractions of the wealth that is bet on each block: small ones find small advantages, large ones fast."""
DEVIATIONS = 2.0
"""A block that lies this many deviations out, or more, counts as 1."""
SCALE_BLOCKS_MIN = 2
"""Blocks needed before a deviation exists; until then nothing is bet."""
RECENT_BLOCKS_MAX = 32
"""The size of the advantage is the mean over this many blocks: steady, and yet it follows a drift."""
EVIDENCE_MAX = 1e15
"""Wealth stops growing here, far above any threshold; cutting it only makes swaps rarer."""
CORRELATION_MAX = 0.2
"""Neighbouring blocks that are correlated more than this are not independent evidence."""
CORRELATION_DEVIATIONS = 3.0
"""How many standard errors (1 / sqrt(blocks)) a correlation must be above zero to be believed."""
CORRELATION_SEEN_MAX = 0.98
"""Few blocks cannot tell more: the block advised is at most some 200 of them."""


@dataclass(frozen=True)
class Promotion:
    """When a challenger takes the champion's place.

    `false_swap_every`
        The promise: examples, on average, between swaps that nothing justified.
    `evidence_block`
        What counts as one witness: a number of examples, or a span of label time (`"1d"`), at least
        as long as labels are correlated (a storm, a campaign).
    `min_examples`
        Examples that both models must have answered since the last swap.
    `min_effect`
        The least advantage worth a swap, in units of the loss (recent mean difference, in [0, 1]).
    `cooldown`
        Examples, or a span of label time, between any swap and the next by evidence.
    `loss`
        What is compared: `"brier"`, `"log"` (cut), `"zero_one"` (the label at the pipeline's `threshold`), a
        cost matrix `{(truth, answer): cost}`, or any River metric that is a mean over rows.  Regression
        compares absolute errors where nothing else is said, or those of a quantile, `Quantile(0.9)`.
    `fresh_challengers_max`
        How many clones started because the champion's loss drifted may race at once; 0 starts none.
        When the field is full the worst of them retires.  At most one starts per cool-down.
    `approve`
        `"evidence"`: what has proven better is promoted; `"manual"`: it is proposed, and a person decides.
    `proposal_expires`
        How long a proposal waits for an answer: a number of examples, or a span of label time.
    `veto`
        Where a challenger must not be worse than the champion: a `Guard` each, on the last 1,000 rows that it
        looks at.
    `churn_max`
        The largest share of recent answers that may differ under a new champion; None is any.
    """

    false_swap_every: int = 1_000_000
    evidence_block: int | str = 32
    min_examples: int = 1_000
    min_effect: float = 0.0
    cooldown: int | str = 1_000
    loss: Objective = "brier"
    fresh_challengers_max: int = 1
    approve: Literal["evidence", "manual"] = "evidence"
    proposal_expires: int | str = "7d"
    veto: Sequence[Guard] = ()
    churn_max: float | None = None

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.  Raises DefinitionError."""
        check_objective(self.loss)
        for name, least in (
            ("false_swap_every", 1),
            ("min_examples", 1),
            ("min_effect", 0),
            ("fresh_challengers_max", 0),
        ):
            if not getattr(self, name) >= least:
                raise DefinitionError(
                    f"promotion.{name} is {getattr(self, name)}", hint=f"give {least} or more"
                )
        for name, least in (("evidence_block", 1), ("cooldown", 0), ("proposal_expires", 1)):
            value = getattr(self, name)
            size = duration_ms(value) if isinstance(value, str) else value
            if size < least:
                raise DefinitionError(
                    f"promotion.{name} is {value!r}", hint='give a number of examples or a span such as "1d"'
                )
        self._check_approval()

    def _check_approval(self) -> None:
        object.__setattr__(self, "veto", tuple(self.veto))
        if self.approve not in {"evidence", "manual"}:
            raise DefinitionError(f"promotion.approve is {self.approve!r}", hint='use "evidence" or "manual"')
        for guard in self.veto:
            if not isinstance(guard, Guard):
                raise DefinitionError(
                    f"promotion.veto has {guard!r}", hint='give Guard(0.02, slice=("carrier", "AA")) each'
                )
        if self.churn_max is not None and not 0.0 <= self.churn_max <= 1.0:
            raise DefinitionError(f"promotion.churn_max is {self.churn_max!r}", hint="give a share, 0 to 1")


class Verdict(NamedTuple):
    """One challenger whose evidence has crossed the threshold."""

    name: str
    evidence: float
    """The challenger's wealth, the mean over the betting fractions."""
    threshold: float
    """In blocks: `false_swap_every` over the mean number of examples in a block."""
    effect: float
    """Recent mean of loss(champion) - loss(challenger)."""
    examples: int
    """Examples compared since the last swap."""
    blocks: int
    correlation: float = 0.0
    """Of neighbouring blocks' loss differences: the promise is about blocks that are independent."""
    block_wanted: int | str = ""
    """The `evidence_block` that would make it small, where it is not."""


class Neighbours(msgspec.Struct):
    """The correlation of each value with the one before it, in constant memory.

    >>> blocks = Neighbours()
    >>> for storm in range(20):
    ...     for _ in range(5):
    ...         blocks.add(0.3 if storm % 2 else -0.3)
    >>> round(blocks.correlation, 2), blocks.blocks_wanted
    (0.61, 9)
    """

    count: int = 0
    first: float = 0.0
    last: float = 0.0
    total: float = 0.0
    squares: float = 0.0
    products: float = 0.0
    """Sum of each value times the one before it."""

    def add(self, value: float) -> None:
        """Add the next value."""
        if self.count:
            self.products += value * self.last
        else:
            self.first = value
        self.last = value
        self.total += value
        self.squares += value * value
        self.count += 1

    @property
    def correlation(self) -> float:
        """Return the correlation, 0.0 where values do not vary."""
        if self.count < 2:
            return 0.0
        mean = self.total / self.count
        spread = self.squares - self.count * mean * mean
        if spread <= 1e-9 * self.squares:
            return 0.0
        inner = 2.0 * self.total - self.first - self.last
        return (self.products - mean * inner + (self.count - 1) * mean * mean) / spread

    @property
    def blocks_wanted(self) -> int:
        """Return how many blocks should be joined; 1 where they are long enough, or too few to tell."""
        correlation = self.correlation
        if self.count < 2 or correlation <= max(
            CORRELATION_MAX, CORRELATION_DEVIATIONS / math.sqrt(self.count)
        ):
            return 1
        correlation = min(correlation, CORRELATION_SEEN_MAX)
        return math.ceil(2.0 * (1.0 + correlation) / (1.0 - correlation))


class _Duel(msgspec.Struct):
    """One challenger against the champion: constant memory."""

    wealth: list[float]
    total: float = 0.0
    """Sum of loss differences in the open block."""
    count: int = 0
    """Examples in the open block."""
    blocks: int = 0
    examples: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Welford's mean and sum of squared deviations of the closed blocks."""
    recent: list[float] = []
    neighbours: Neighbours = msgspec.field(default_factory=Neighbours)

    def close_block(self) -> None:
        """Bet on the open block, then add it to the scale."""
        difference = self.total / self.count
        z = 0.0
        if self.blocks >= SCALE_BLOCKS_MIN and self.squares > 0.0:
            z = difference / (DEVIATIONS * math.sqrt(self.squares / (self.blocks - 1)))
        z = max(-1.0, min(z, 1.0))
        self.wealth = [
            min((wealth + 1.0) * (1.0 + bet * z), EVIDENCE_MAX)
            for wealth, bet in zip(self.wealth, BETS, strict=True)
        ]
        self.examples += self.count
        self.blocks += 1
        away = difference - self.mean
        self.mean += away / self.blocks
        self.squares += away * (difference - self.mean)
        self.neighbours.add(difference)
        self.recent = [*self.recent[1 - RECENT_BLOCKS_MAX :], difference]
        self.total, self.count = 0.0, 0

    @property
    def evidence(self) -> float:
        return math.fsum(self.wealth) / len(self.wealth)

    @property
    def effect(self) -> float:
        return math.fsum(self.recent) / len(self.recent) if self.recent else 0.0


class _EvidenceState(msgspec.Struct):
    duels: dict[str, _Duel] = {}
    compared: int = 0
    """Challengers compared since the last swap, those that left included: the mean is over all of them."""
    block: int | None = None
    """Number of the open block of label time."""
    block_examples: int = 0
    """Examples in the open block, whoever answered them."""
    blocks_closed: int = 0
    examples_closed: int = 0


class Evidence(WholeState):
    """Compare every challenger with the champion, block by block of labels.

    >>> evidence = Evidence(Promotion(false_swap_every=100, evidence_block=1, min_examples=10))
    >>> for n in range(40):
    ...     losses = {"old": 0.30 + 0.02 * (n % 3), "new": 0.20}
    ...     verdicts = evidence.update("old", losses, label_time=n)
    ...     if verdicts:
    ...         break
    >>> n, verdicts[0].name, round(verdicts[0].effect, 2)
    (8, 'new', 0.12)
    """

    def __init__(self, promotion: Promotion) -> None:
        self._settle(promotion)
        self._state = _EvidenceState()

    def _settle(self, promotion: Promotion) -> None:
        block = promotion.evidence_block
        self._span_ms = duration_ms(block) if isinstance(block, str) else None
        self._size = block if isinstance(block, int) else 0
        self._false_swap_every = promotion.false_swap_every
        self._compares = model_text((block, promotion.loss))
        """What the state rests on."""

    def change(self, promotion: Promotion) -> None:
        """Go on by other settings: comparisons go on where blocks and losses stay, else they start over."""
        compared = self._compares
        self._settle(promotion)
        if self._compares != compared:
            self._state = _EvidenceState()
            self._dirty = True

    def update(self, champion: str, losses: Mapping[str, float | None], label_time: int) -> list[Verdict]:
        """Add the losses of one example; return challengers proven better, most evidence first, mostly none.

        `losses` holds every candidate's bounded loss on this example, None where it had no opinion.
        A block of label time closes with the first example of a later one; earlier label times
        belong to the open block.
        """
        state = self._state
        self._dirty = True
        closed = state.blocks_closed
        if self._span_ms is not None:
            block = label_time // self._span_ms
            if state.block is None:
                state.block = block
            elif block > state.block:
                self._close_block()
                state.block = block
        state.block_examples += 1
        if len(losses) > 1:
            self._compare(champion, losses)
        if self._span_ms is None and state.block_examples >= self._size:
            self._close_block()
        return self._verdicts() if state.blocks_closed > closed else []

    def _compare(self, champion: str, losses: Mapping[str, float | None]) -> None:
        state = self._state
        of_champion = losses.get(champion)
        if of_champion is None:
            return
        duels = state.duels
        for name, loss in losses.items():
            if loss is None or name == champion:
                continue
            duel = duels.get(name)
            if duel is None:
                duel = duels[name] = _Duel([0.0] * len(BETS))
                state.compared += 1
            duel.total += of_champion - loss
            duel.count += 1

    def _close_block(self) -> None:
        state = self._state
        state.blocks_closed += 1
        state.examples_closed += state.block_examples
        state.block_examples = 0
        for duel in state.duels.values():
            if duel.count:
                duel.close_block()

    @property
    def threshold(self) -> float:
        """Return the threshold in blocks; the open block counts where it is the only one."""
        state = self._state
        if not state.blocks_closed:
            return float(self._false_swap_every)
        return self._false_swap_every * state.blocks_closed / state.examples_closed

    def _verdicts(self) -> list[Verdict]:
        duels = self._state.duels
        if not duels:
            return []
        threshold = self.threshold
        if math.fsum(duel.evidence for duel in duels.values()) < threshold * self._state.compared:
            return []
        proven = [
            self._verdict(name, duel, threshold) for name, duel in duels.items() if duel.evidence >= threshold
        ]
        return sorted(proven, key=lambda verdict: -verdict.evidence)

    def _verdict(self, name: str, duel: _Duel, threshold: float) -> Verdict:
        neighbours = duel.neighbours
        return Verdict(
            name,
            duel.evidence,
            threshold,
            duel.effect,
            duel.examples,
            duel.blocks,
            neighbours.correlation,
            self._block_of(neighbours.blocks_wanted),
        )

    def _block_of(self, blocks: int) -> int | str:
        """Return the `evidence_block` that is `blocks` times the present one, as text; "" for one."""
        if blocks == 1:
            return ""
        return self._size * blocks if self._span_ms is None else duration_text(self._span_ms * blocks)

    def compared(self) -> list[Verdict]:
        """Return the verdict on every challenger, proven better or not."""
        return [self._verdict(name, duel, self.threshold) for name, duel in self._state.duels.items()]

    def standing(self) -> dict[str, float]:
        """Return every challenger's evidence as a share of the threshold, for display."""
        return {name: duel.evidence / self.threshold for name, duel in self._state.duels.items()}

    def start_over(self) -> None:
        """Restart all comparisons: another champion serves.  The mean size of blocks is kept."""
        state = self._state
        state.duels, state.compared = {}, 0
        self._dirty = True

    def forget(self, name: str) -> None:
        """Drop a challenger that has left the race; the threshold of the others stays."""
        self._dirty |= self._state.duels.pop(name, None) is not None

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        return {"evidence": msgspec.msgpack.encode(self._state)}

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state."""
        self._state = msgspec.msgpack.decode(entries["evidence"], type=_EvidenceState)
        self._dirty = False
