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

Fixed blocks (`evidence_block=32`, `"1d"`) are taken as the definition gives them; whether they are long
enough is watched (`Neighbours`), and told.  With `evidence_block="auto"` blocks are short and the bets
answer: where V blocks carry what one independent block does (`Spread.inflation`), a bet is g / V and pays for
the variance that correlation adds,

    M  =  (M + 1) x (1 + g z / V) x exp(-(g / V)^2 (V - 1) / 8)

for z has variance 1/4 and the sum of n correlated ones n V / 4.  The deviation is that of successive
differences and forgets old regimes, and what is known of a pair of models is kept when they change places.

Long blocks see a collapse late: a block wins at most a factor below two.  So beside them runs a short watch
with a share of the budget, `WATCH_SHARE`: blocks of `SHORT_BLOCK` examples, bets as above with V at least the
length of the long blocks, and bold ones, which win on collapses only.

The first verdict on a champion that was only named may be an easier one: for each challenger an e-process
that begins with wealth 1, spread over all starts j by 1 / (j (j + 1)), and whose mean reaches
1 / `opening_error` with at most that probability, whenever one looks (J. Ville, 1939).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

import msgspec

from operators.models.parameters import model_text
from operators.race.correlation import Neighbours, Spread
from operators.race.losses import Objective, check_objective
from operators.race.routing import Guard
from operators.state import StateEntries, WholeState
from topics.durations import duration_ms, duration_text
from topics.errors import DefinitionError

__all__ = ["AUTO", "Evidence", "Promotion", "Verdict"]

Bar = Literal["blocks", "opening", "watch"]
"""What a challenger can reach: the bar of the blocks, of the first verdict, of the short watch."""
LONG_BARS: frozenset[Bar] = frozenset({"blocks", "opening"})
"""Bars that are looked at when a block of the definition closes."""

Prices = Mapping[Any, float]
"""What a wrong answer costs: by "fp" and "fn", or by (truth, answer)."""
_WRONG: Final[Mapping[Any, tuple[bool, bool]]] = {"fp": (False, True), "fn": (True, False)}
"""The two ways to be wrong of a binary answer, as (truth, answer)."""
AUTO = "auto"
"""The `evidence_block` that answers to correlation."""
BETS = (0.2, 0.5, 0.8)
"""Fractions of the wealth that is bet on each block: small ones find small advantages, large ones fast."""
DEVIATIONS = 2.0
"""A block that lies this many deviations out, or more, counts as 1."""
ANSWERING_BETS = (0.2, 0.4, 0.9)
"""The same where bets answer to correlation."""
WATCH_BETS = (1.0, 2.0, 4.0)
"""Of the short watch, before they are divided by the inflation: bold, to win on collapses only."""
WATCH_DEVIATIONS = 4.0
"""To the short watch, a block that lies this many deviations out, or more, counts as 2."""
WATCH_SHARE = 0.1
"""The short watch's share of the false swaps."""
OPENING_BLOCKS = 8.0
"""Of the first block, the first verdict takes it that so many more say the same, of the second half as many,
and so on: storms are not known before there has been one."""
SHORT_BLOCK = 32
"""Examples in a block of "auto" and of the watch."""
SATURATION_MAX = 4.0
"""The square of what is bet on is at most so many times that of independent blocks."""
LOSS_MAX = 0.98
"""The share of its wealth that the short watch can lose in one block."""
UNIT_VARIANCE = 0.25
"""Of an independent block in units of `DEVIATIONS` deviations."""
SCALE_BLOCKS_MIN = 2
"""Blocks needed before a deviation exists; until then nothing is bet."""
RECENT_BLOCKS_MAX = 32
"""The size of the advantage is the mean over this many blocks: steady, and yet it follows a drift."""
EVIDENCE_MAX = 1e15
"""Wealth stops growing here, far above any threshold; cutting it only makes swaps rarer."""


@dataclass(frozen=True)
class Promotion:
    """When a challenger takes the champion's place.

    `false_swap_every`
        The promise: examples, on average, between swaps that nothing justified.
    `evidence_block`
        What counts as one witness.  `"auto"`: 32 examples, and less is bet where neighbouring blocks are
        correlated.  Or a number of examples, or a span of label time (`"1d"`), at least as long as labels are
        correlated (a storm, a campaign).
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
    `cost`
        What a wrong answer costs, instead of `loss`: `{"fp": 1, "fn": 20}` of a binary race (an alarm for
        nothing, a case missed), `{(truth, answer): cost}` of any; what is not named costs nothing.
    `opening_error`
        For a pipeline that names its champion: the probability that the first verdict is a wrong one, for as
        long as there is none.  0 leaves the opening to `false_swap_every`.
    `opening_min_examples`
        Examples that both models must have answered before that verdict.
    `fresh_challengers_max`
        How many clones started because the champion's loss drifted may race at once; 0 starts none.
        When the field is full the worst of them retires, where the champion is no blend only of those that
        have raced for 4 x `min_examples`: if none has, nobody starts.  At most one starts per cool-down.
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
    evidence_block: int | str = "auto"
    min_examples: int = 1_000
    min_effect: float = 0.0
    cooldown: int | str = 1_000
    loss: Objective = "brier"
    fresh_challengers_max: int = 1
    opening_error: float = 0.05
    opening_min_examples: int = 100
    approve: Literal["evidence", "manual"] = "evidence"
    proposal_expires: int | str = "7d"
    veto: Sequence[Guard] = ()
    churn_max: float | None = None
    cost: Prices | None = field(default=None, metadata={"untold": True})

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.  Raises DefinitionError."""
        if self.cost is not None:
            self._judge_by(self.cost)
        check_objective(self.loss)
        for name, least in (
            ("false_swap_every", 1),
            ("min_examples", 1),
            ("opening_min_examples", 1),
            ("min_effect", 0),
            ("fresh_challengers_max", 0),
        ):
            if not getattr(self, name) >= least:
                raise DefinitionError(
                    f"promotion.{name} is {getattr(self, name)}", hint=f"give {least} or more"
                )
        if not 0.0 <= self.opening_error < 1.0:
            raise DefinitionError(
                f"promotion.opening_error is {self.opening_error}",
                hint="give a probability below 1; 0 for none",
            )
        for name, least in (("evidence_block", 1), ("cooldown", 0), ("proposal_expires", 1)):
            value = getattr(self, name)
            if name == "evidence_block" and value == AUTO:
                continue
            size = duration_ms(value) if isinstance(value, str) else value
            if size < least:
                raise DefinitionError(
                    f"promotion.{name} is {value!r}", hint='give a number of examples or a span such as "1d"'
                )
        self._check_approval()

    def _judge_by(self, cost: Prices) -> None:
        """Compare by what wrong answers cost: the loss is the cost matrix."""
        named = {_WRONG.get(pair, pair): value for pair, value in cost.items()}
        if self.loss not in ("brier", named):
            raise DefinitionError(
                f"promotion says what is compared twice: cost and loss={self.loss!r}", hint="give one of them"
            )
        if len(named) < len(cost):
            raise DefinitionError(f"promotion.cost {dict(cost)!r} names a pair twice", hint="give each once")
        object.__setattr__(self, "loss", named)

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
    """In blocks: `false_swap_every` over the mean number of examples in a block; of the opening, 1 over its
    error."""
    effect: float
    """Recent mean of loss(champion) - loss(challenger)."""
    examples: int
    """Examples compared since the last swap."""
    blocks: int
    correlation: float = 0.0
    """Of neighbouring blocks' loss differences: the promise is about blocks that are independent."""
    block_wanted: int | str = ""
    """The `evidence_block` that would make it small, where bets do not answer to it and it is not."""
    inflation: float = 1.0
    """How many blocks carry what one independent block does, where bets answer to it."""
    bar: Bar = "blocks"
    """Which bar was reached: that of the blocks, of the first verdict, or of the short watch."""

    @property
    def opening(self) -> bool:
        """Return whether the opening's own bar was reached."""
        return self.bar == "opening"


def _grown(wealth: Sequence[float], factors: Sequence[float], start: float) -> list[float]:
    """Return the wealth of each bet after a block at which `start` more was put in."""
    return [min((one + start) * factor, EVIDENCE_MAX) for one, factor in zip(wealth, factors, strict=True)]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def _cut(value: float, most: float) -> float:
    return max(-most, min(value, most))


def _in_units(difference: float, deviation: float) -> float:
    """Return a block difference in units of `DEVIATIONS` deviations, 0.0 where there is none yet."""
    return difference / (DEVIATIONS * deviation) if deviation > 0.0 else 0.0


def _answering(bets: Sequence[float], unit: float, inflation: float, lost_max: float = 1.0) -> list[float]:
    """Return what each bet, divided by the inflation, makes of a block that lies `unit` out."""
    factors = []
    for bet in bets:
        share = bet / inflation
        paid = math.exp(-share * share * (inflation - 1.0) * UNIT_VARIANCE / 2.0)
        factors.append(max(1.0 + share * unit, 1.0 - lost_max) * paid)
    return factors


class _Watch(msgspec.Struct):
    """The short watch of one challenger beside its long blocks."""

    wealth: list[float]
    marked: float = 0.0
    """The open block's sum when the watch last looked ..."""
    marked_count: int = 0
    carried: float = 0.0
    """... and what it had not seen of blocks closed since."""
    carried_count: int = 0
    recent: list[float] = []

    def close_block(self, total: float, count: int) -> float | None:
        """Return the mean difference since the last look, None where nothing was compared."""
        seen = self.carried_count + count - self.marked_count
        since = self.carried + total - self.marked
        self.marked, self.marked_count, self.carried, self.carried_count = total, count, 0.0, 0
        return since / seen if seen else None

    def carry(self, total: float, count: int) -> None:
        """Keep what has not been looked at of a long block that closes."""
        self.carried += total - self.marked
        self.carried_count += count - self.marked_count
        self.marked, self.marked_count = 0.0, 0

    def answer(self, difference: float, spread: Spread, long_blocks: float) -> None:
        """Bet on a short block; a long one is as long as `long_blocks` of them."""
        unit = _cut(_in_units(difference, spread.deviation), WATCH_DEVIATIONS / DEVIATIONS)
        least = long_blocks * max(1.0, min(spread.saturation, SATURATION_MAX))
        factors = _answering(WATCH_BETS, unit, max(spread.inflation, least), LOSS_MAX)
        self.wealth = _grown(self.wealth, factors, 1.0)
        spread.add(difference, _cut(unit, 1.0))
        self.recent = [*self.recent[1 - RECENT_BLOCKS_MAX :], difference]


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
    opening: list[float] = []
    """Wealth for the first verdict, bet by bet; empty when that has been given."""
    watch: _Watch | None = None

    def bet(self, unit: float) -> None:
        """Bet on the open block, which lies `unit` out, with fixed fractions."""
        factors = [1.0 + bet * unit for bet in BETS]
        self.wealth = _grown(self.wealth, factors, 1.0)
        self._open(factors)

    def answer(self, unit: float, inflation: float) -> None:
        """Bet on the open block with fractions that answer to correlation."""
        self.wealth = _grown(self.wealth, _answering(ANSWERING_BETS, unit, inflation), 1.0)
        if self.opening:
            least = 1.0 + OPENING_BLOCKS / (self.blocks + 1)
            self._open(_answering(ANSWERING_BETS, unit, max(inflation, least)))

    def _open(self, factors: list[float]) -> None:
        """Bet the wealth for the first verdict."""
        if self.opening:
            start = 1.0 / ((self.blocks + 1) * (self.blocks + 2))
            self.opening = _grown(self.opening, factors, start)

    def close_block(self) -> None:
        """Add the open block to what was seen, once it has been bet on."""
        difference = self.total / self.count
        self.examples += self.count
        self.blocks += 1
        away = difference - self.mean
        self.mean += away / self.blocks
        self.squares += away * (difference - self.mean)
        self.neighbours.add(difference)
        self.recent = [*self.recent[1 - RECENT_BLOCKS_MAX :], difference]
        if self.watch is not None:
            self.watch.carry(self.total, self.count)
        self.total, self.count = 0.0, 0

    @property
    def deviation(self) -> float:
        """Return the standard deviation of the closed blocks, 0.0 where there is none yet."""
        if self.blocks < SCALE_BLOCKS_MIN or self.squares <= 0.0:
            return 0.0
        return math.sqrt(self.squares / (self.blocks - 1))

    @property
    def evidence(self) -> float:
        return _mean(self.wealth)

    @property
    def opening_evidence(self) -> float:
        """Return the wealth for the first verdict: what was won, and what is kept for later starts."""
        return _mean(self.opening) + 1.0 / (self.blocks + 1) if self.opening else 0.0

    @property
    def effect(self) -> float:
        return _mean(self.recent)


class _EvidenceState(msgspec.Struct):
    duels: dict[str, _Duel] = {}
    compared: int = 0
    """The most challengers compared at once since the last swap: the mean is over so many.  One that enters
    for another that left takes its place, with nothing won."""
    started: int = 0
    """Challengers compared since the last swap, those that left included: they share the opening's error."""
    block: int | None = None
    """Number of the open block of label time."""
    block_examples: int = 0
    """Examples in the open block, whoever answered them."""
    blocks_closed: int = 0
    examples_closed: int = 0
    champion: str = ""
    """Whom the spreads are against ..."""
    spreads: dict[str, Spread] = {}
    """... by challenger, of short blocks; kept when the two change places."""
    opening: bool = False
    """Whether the first verdict is still to come."""
    short_examples: int = 0
    """Examples since the short watch last looked."""


class Evidence(WholeState):
    """Compare every challenger with the champion, block by block of labels.

    `opening` says that the first verdict has a bar of its own: the champion was named, not proven.

    >>> evidence = Evidence(Promotion(false_swap_every=100, evidence_block=1, min_examples=10))
    >>> for n in range(40):
    ...     losses = {"old": 0.30 + 0.02 * (n % 3), "new": 0.20}
    ...     verdicts = evidence.update("old", losses, label_time=n)
    ...     if verdicts:
    ...         break
    >>> n, verdicts[0].name, round(verdicts[0].effect, 2)
    (8, 'new', 0.12)
    """

    def __init__(self, promotion: Promotion, *, opening: bool = False) -> None:
        self._follow(promotion)
        self._state = _EvidenceState(opening=opening and promotion.opening_error > 0.0)

    def _follow(self, promotion: Promotion) -> None:
        block = promotion.evidence_block
        self._promotion = promotion
        self._answers = block == AUTO
        self._span_ms = duration_ms(block) if isinstance(block, str) and not self._answers else None
        self._size = block if isinstance(block, int) else SHORT_BLOCK
        self._compares = model_text((block, promotion.loss))
        """What the state rests on."""
        self._watches = not self._answers and (self._span_ms is not None or self._size > 2 * SHORT_BLOCK)

    def change(self, promotion: Promotion) -> None:
        """Go on by other settings: comparisons go on where blocks and losses stay, else they start over."""
        compared = self._compares
        self._follow(promotion)
        if self._compares != compared:
            self._state = _EvidenceState(opening=self._state.opening)
            self._dirty = True

    def update(self, champion: str, losses: Mapping[str, float | None], label_time: int) -> list[Verdict]:
        """Add the losses of one example; return challengers proven better, most evidence first, mostly none.

        `losses` holds every candidate's loss on this example, None where it had no opinion.
        A block of label time closes with the first example of a later one; earlier label times
        belong to the open block.
        """
        state = self._state
        self._dirty = True
        looked: set[Bar] = set()
        if self._span_ms is not None:
            block = label_time // self._span_ms
            if state.block is None:
                state.block = block
            elif block > state.block:
                self._close_block()
                state.block = block
                looked |= LONG_BARS
        state.block_examples += 1
        if len(losses) > 1:
            self._compare(champion, losses)
        if self._watches:
            state.short_examples += 1
            if state.short_examples >= SHORT_BLOCK:
                self._close_short_block()
                looked.add("watch")
        if self._span_ms is None and state.block_examples >= self._size:
            self._close_block()
            looked |= LONG_BARS
        return self._verdicts(looked) if looked else []

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
                duel = duels[name] = self._begin(champion)
            duel.total += of_champion - loss
            duel.count += 1

    def _begin(self, champion: str) -> _Duel:
        """Return the duel of a challenger that has not been compared since the last swap."""
        state = self._state
        state.compared = max(state.compared, len(state.duels) + 1)
        state.started += 1
        if champion != state.champion:
            # Only the two that changed places are a pair again; what others were to the last champion says
            # nothing of the new one.
            of_pair = state.spreads.get(champion)
            state.spreads = {} if of_pair is None else {state.champion: of_pair.mirrored()}
            state.champion = champion
        bets = ANSWERING_BETS if self._answers else BETS
        return _Duel(
            [0.0] * len(bets),
            opening=[0.0] * len(bets) if state.opening else [],
            watch=_Watch([0.0] * len(WATCH_BETS)) if self._watches else None,
        )

    def _close_block(self) -> None:
        state = self._state
        state.blocks_closed += 1
        state.examples_closed += state.block_examples
        state.block_examples = 0
        for name, duel in state.duels.items():
            if not duel.count:
                continue
            difference = duel.total / duel.count
            if self._answers:
                spread = self._spread(name)
                unit = _cut(_in_units(difference, spread.deviation), 1.0)
                duel.answer(unit, spread.inflation)
                spread.add(difference, unit)
            else:
                duel.bet(_cut(_in_units(difference, duel.deviation), 1.0))
            duel.close_block()

    def _close_short_block(self) -> None:
        """Let the short watch look; how long the long blocks are is known when one has closed."""
        state = self._state
        state.short_examples = 0
        for name, duel in state.duels.items():
            if duel.watch is None:
                continue
            difference = duel.watch.close_block(duel.total, duel.count)
            if difference is not None and state.blocks_closed:
                long_blocks = state.examples_closed / state.blocks_closed / SHORT_BLOCK
                duel.watch.answer(difference, self._spread(name), max(long_blocks, 1.0))

    def _spread(self, name: str) -> Spread:
        """Return the spread of a challenger's short blocks."""
        spreads = self._state.spreads
        spread = spreads.get(name)
        if spread is None:
            spread = spreads[name] = Spread()
        return spread

    @property
    def threshold(self) -> float:
        """Return the threshold in blocks; the open block counts where it is the only one."""
        state = self._state
        every = self._promotion.false_swap_every / (1.0 - WATCH_SHARE if self._watches else 1.0)
        if not state.blocks_closed:
            return every
        return every * state.blocks_closed / state.examples_closed

    def _bars(self, duel: _Duel) -> Iterator[tuple[Bar, float, float]]:
        """Yield each bar that a challenger can reach: its evidence, and the threshold."""
        yield "blocks", duel.evidence, self.threshold
        if duel.opening:
            yield "opening", duel.opening_evidence, 1.0 / self._promotion.opening_error
        if duel.watch is not None:
            every = self._promotion.false_swap_every / SHORT_BLOCK / WATCH_SHARE
            yield "watch", _mean(duel.watch.wealth), every

    def _verdicts(self, bars: AbstractSet[Bar]) -> list[Verdict]:
        """Return the challengers that reach one of `bars`, by the mean of all and by their own evidence."""
        state = self._state
        reached: dict[Bar, list[tuple[str, float, float]]] = {}
        totals: dict[Bar, float] = {}
        for name, duel in state.duels.items():
            for bar, evidence, threshold in self._bars(duel):
                totals[bar] = totals.get(bar, 0.0) + evidence
                if bar in bars and evidence >= threshold:
                    reached.setdefault(bar, []).append((name, evidence, threshold))
        proven: dict[str, Verdict] = {}
        for bar, ones in reached.items():
            sharing = state.started if bar == "opening" else state.compared
            for name, evidence, threshold in ones:
                if name not in proven and totals[bar] >= threshold * sharing:
                    proven[name] = self._verdict(name, bar, evidence, threshold)
        return sorted(proven.values(), key=lambda verdict: -verdict.evidence / verdict.threshold)

    def _verdict(self, name: str, bar: Bar, evidence: float, threshold: float) -> Verdict:
        duel = self._state.duels[name]
        neighbours, spread = duel.neighbours, self._state.spreads.get(name)
        effect = duel.effect
        if bar == "watch" and duel.watch is not None:
            effect = _mean(duel.watch.recent)
        return Verdict(
            name,
            evidence,
            threshold,
            effect,
            duel.examples + duel.count,
            duel.blocks,
            neighbours.correlation,
            "" if self._answers else self._block_of(neighbours.blocks_wanted),
            spread.inflation if self._answers and spread is not None else 1.0,
            bar,
        )

    def _block_of(self, blocks: int) -> int | str:
        """Return the `evidence_block` that is `blocks` times the present one, as text; "" for one."""
        if blocks == 1:
            return ""
        return self._size * blocks if self._span_ms is None else duration_text(self._span_ms * blocks)

    def compared(self) -> list[Verdict]:
        """Return the verdict on every challenger, proven better or not."""
        duels = self._state.duels
        return [self._verdict(name, "blocks", duel.evidence, self.threshold) for name, duel in duels.items()]

    def differences(self) -> dict[str, tuple[float, float, int]]:
        """Return mean, deviation and number of the blocks' loss(champion) - loss(challenger), by name."""
        return {name: (duel.mean, duel.deviation, duel.blocks) for name, duel in self._state.duels.items()}

    def standing(self) -> dict[str, float]:
        """Return every challenger's evidence as a share of the threshold it is nearest to, for display."""
        return {
            name: max(evidence / threshold for _, evidence, threshold in self._bars(duel))
            for name, duel in self._state.duels.items()
        }

    def start_over(self) -> None:
        """Restart all comparisons: another champion serves, and the opening is over.

        The mean size of blocks is kept.
        """
        state = self._state
        state.duels, state.compared, state.started = {}, 0, 0
        state.opening = False
        self._dirty = True

    def forget(self, name: str) -> None:
        """Drop a challenger that has left the race; the threshold of the others stays."""
        state = self._state
        known = name in state.duels or name in state.spreads
        state.duels.pop(name, None)
        state.spreads.pop(name, None)
        self._dirty |= known

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        return {"evidence": msgspec.msgpack.encode(self._state)}

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state."""
        self._state = msgspec.msgpack.decode(entries["evidence"], type=_EvidenceState)
        self._dirty = False
