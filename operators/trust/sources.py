"""How far the sources of labels are trusted: a cap for each, and a quarantine for those far from the others.

Lives here: the settings, the last labels of all sources, the evidence against each.  Never here: the race;
what a quarantine looks like as a decision (`engine/machines/race.py`).

The cap.  Of the last `per_source_window` labels, this one included, at most `per_source_max` of one source
are learned; what is beyond is not.  So few hostile sources cannot outvote many honest ones, however much
they send.

    window of 8, at most 2     a b a c a a d b    the last two `a` stand in the log and teach nobody

The quarantine.  While a source is like the others, its loss is at most theirs plus `loss_margin` in the
mean, and the share of its positive labels within `rate_margin` of theirs.  With x the loss of its label in
[0, 1] and b the bound, both known before the label counts,

    M  =  (M + 1) x (1 + c (x / b - 1))        c = .25, .5, .75, the mean over the three

is the Shiryaev-Roberts sum of betting e-processes of `operators/race/evidence.py` (Shin, Ramdas and
Rinaldo, "E-detectors", 2022).  Each label adds 1 to the M of one source, so the sum over all of them, minus
the number of labels, is a supermartingale: the average number of labels until the first M reaches
`false_quarantine_every` is at least that, however many sources there are and however often one looks.  A
source that was honest for a year and is then taken over is found as fast as a new one.

The others are what is learned: labels beyond the cap and of quarantined sources are left out of that mean,
or five loud sources would move it to themselves.  Sums are whole numbers (millionths), so nothing is lost
in adding and taking away.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import msgspec

from operators.models.parameters import model_text
from operators.race.losses import Objective, ScaledError, loss_max, loss_of
from operators.state import StateEntries, WholeState
from topics.errors import DefinitionError
from topics.messages import Example, Task

__all__ = ["SOURCE_WINDOW", "Finding", "LeftOut", "SourceRules", "Sources", "Trust"]

SOURCE_WINDOW = 500
"""Labels among which a source's share is counted, unless the definition says otherwise."""
OTHERS_MIN = 30
"""Learned labels of others in the window without which nobody is compared with them."""
BETS: Final = (0.25, 0.5, 0.75)
"""The share of the wealth that is bet on each label."""
EVIDENCE_MAX = 1e15
"""Wealth stops growing here, far above any threshold."""
MILLION = 1_000_000
"""Losses are kept as whole millionths."""

LeftOut = Literal["", "over_source_cap", "quarantined_source"]
"""Why a label is not learned; empty where it is."""
_TESTS = ("loss", "rate above", "rate below")


@dataclass(frozen=True)
class Trust:
    """When a source of labels is quarantined: kept, and learned by nobody, until a person releases it.

    `false_quarantine_every`
        The promise: labels, of all sources, on average, until one is quarantined that is like the others.
    `loss_margin`
        How far the mean loss of a source, in [0, 1], may lie above that of the others: what differs between
        honest sources.
    `rate_margin`
        Of a binary race: how far the share of its positive labels may lie from that of the others.
    `sources_max`
        How many sources are kept; beyond, the one heard of longest ago is forgotten, never a quarantined one.
    `pause_above`
        Share of the window's labels from quarantined sources above which a new quarantine pauses learning as
        well, until a person resumes it; None never does.
    """

    false_quarantine_every: int = 1_000_000
    loss_margin: float = 0.2
    rate_margin: float = 0.5
    sources_max: int = 1_000
    pause_above: float | None = None

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.  Raises DefinitionError."""
        for name in ("false_quarantine_every", "sources_max"):
            if getattr(self, name) < 1:
                raise DefinitionError(f"trust.{name} is {getattr(self, name)}", hint="give 1 or more")
        for name in ("loss_margin", "rate_margin"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise DefinitionError(
                    f"trust.{name} is {getattr(self, name)!r}",
                    hint="a difference in (0, 1]; 1 never finds anything",
                )
        if self.pause_above is not None and not 0.0 <= self.pause_above < 1.0:
            raise DefinitionError(
                f"trust.pause_above is {self.pause_above!r}", hint="a share of labels below 1, or None"
            )


@dataclass(frozen=True)
class SourceRules:
    """What a definition says of the sources of its labels."""

    per_source_max: int | None = None
    """Labels of one source among the last `window` that are learned; None is any."""
    window: int = SOURCE_WINDOW
    trust: Trust | None = None
    """None quarantines nobody."""


class Finding(NamedTuple):
    """A source that is far from the others."""

    source: str
    test: str
    """What is: its "loss", or its share of positive labels, "rate above" or "rate below"."""
    mean: float
    """Of its labels in the window ..."""
    others: float
    """... and of the learned ones of the others."""
    labels: int
    """Labels of it since it was first heard of."""
    evidence: float
    threshold: float
    share: float
    """Of the window's labels from quarantined sources, this one among them."""
    pauses: bool
    """Whether learning pauses."""


class _Source(msgspec.Struct, array_like=True):
    """One source: constant memory."""

    labels: int = 0
    wealth: list[list[float]] = msgspec.field(default_factory=lambda: [[0.0] * len(BETS) for _ in _TESTS])
    """By test and bet."""
    quarantined: bool = False


class _Seen(NamedTuple):
    """One label of the window."""

    source: str
    learned: bool
    loss: int
    """In millionths; -1 without a score."""
    truth: int
    """1 for a positive label, else 0."""


class _Sums(msgspec.Struct):
    """Sums over the labels of one source in the window."""

    labels: int = 0
    learned: int = 0
    losses: int = 0
    """Of learned labels with a score: how many, ..."""
    loss: int = 0
    truth: int = 0
    """... their loss, and the positive ones among the learned."""
    all_loss: int = 0
    all_losses: int = 0
    all_truth: int = 0

    def count(self, seen: _Seen, by: int) -> None:
        """Count a label in (1), or out (-1)."""
        scored = seen.loss >= 0
        self.labels += by
        self.all_truth += by * seen.truth
        self.all_losses += by * scored
        self.all_loss += by * seen.loss * scored
        if seen.learned:
            self.learned += by
            self.truth += by * seen.truth
            self.losses += by * scored
            self.loss += by * seen.loss * scored


class _State(msgspec.Struct):
    sources: dict[str, _Source]
    """Heard of longest ago first."""
    window: list[_Seen]
    scale: tuple[float, float, float] | None = None


class Sources(WholeState):
    """Decide of each label, in the order of the log, whether it is learned.

    >>> sources = Sources(SourceRules(per_source_max=2, window=8), "binary", "brier", 0.5)
    >>> def label(source):
    ...     return Example("e", "k", 0, 9, True, {}, {}, 0.9, "champion", "m", 0, 0, 0, 1, 0, source=source)
    >>> [bool(sources.admit(label(one))[0]) for one in "abacaadb"]
    [False, False, False, False, True, True, False, False]
    """

    def __init__(
        self,
        rules: SourceRules | None,
        task: Task,
        objective: Objective,
        threshold: float,
        counts: Counter[tuple[str, str]] | None = None,
    ) -> None:
        """`rules`: None trusts everybody, and nothing is kept.

        `counts` gets what is left out, by (metric, label), which the shell exports; no part of the state.
        """
        self.counts: Counter[tuple[str, str]] = Counter() if counts is None else counts
        self._task: Task = task
        self._follow(rules, objective, threshold)
        self._clear()

    def _follow(self, rules: SourceRules | None, objective: Objective, threshold: float) -> None:
        self.rules = rules
        self.loss = loss_of(self._task, objective, threshold)
        self._most = loss_max(self._task, objective) or 1.0
        self._scale = self.loss if isinstance(self.loss, ScaledError) else None
        self._judged = model_text((rules, objective, threshold))
        self.active = rules is not None
        trust = None if rules is None else rules.trust
        self.pauses = trust is not None and trust.pause_above is not None
        """Whether a finding can pause learning."""

    def _clear(self) -> None:
        self._sources: dict[str, _Source] = {}
        self._window: deque[_Seen] = deque()
        self._sums: dict[str, _Sums] = {}
        self._all = _Sums()
        self._dirty = True

    def follow(self, rules: SourceRules | None, objective: Objective, threshold: float) -> None:
        """Go on by other settings: what was counted starts anew, who is in quarantine stays there."""
        if model_text((rules, objective, threshold)) == self._judged:
            return
        self._follow(rules, objective, threshold)
        held = [source for source in self.quarantined if rules is not None and rules.trust is not None]
        self._clear()
        self._sources = {source: _Source(quarantined=True) for source in held}

    @property
    def quarantined(self) -> list[str]:
        """Return who is in quarantine."""
        return [name for name, source in self._sources.items() if source.quarantined]

    def admit(self, example: Example) -> tuple[LeftOut, Finding | None]:
        """Take the next label of the log: return why it is not learned, and whom it shows to be far off."""
        rules = self.rules
        if rules is None or not example.source:
            return "", None
        self._dirty = True
        name, trust = example.source, rules.trust
        found, held = None, False
        loss = self.loss(example.label, example.served_score)
        if self._scale is not None:
            self._scale.update(example.label)
        scaled = -1 if loss is None else round(min(max(loss / self._most, 0.0), 1.0) * MILLION)
        truth = int(self._task == "binary" and bool(example.label))
        if trust is not None and (source := self._source(name, trust.sources_max)) is not None:
            source.labels += 1
            if not source.quarantined:
                found = self._test(name, source, trust, scaled, truth)
            held = source.quarantined
        sums = self._sums.get(name)
        over = rules.per_source_max is not None and sums is not None and self._full(sums.learned, rules, name)
        left_out: LeftOut = "quarantined_source" if held else "over_source_cap" if over else ""
        self._keep(_Seen(name, not left_out, scaled, truth), rules.window)
        if found is not None and trust is not None and trust.pause_above is not None:
            share = self.held_share
            found = found._replace(share=share, pauses=share > trust.pause_above)
        if left_out:
            self.counts["examples_left_out", left_out] += 1
        return left_out, found

    def _full(self, learned: int, rules: SourceRules, name: str) -> bool:
        """Return whether nothing more of a source is learned in the window that ends with the next label."""
        first = self._window[0]
        leaves = len(self._window) >= rules.window and first.source == name and first.learned
        return rules.per_source_max is not None and learned - leaves >= rules.per_source_max

    def _keep(self, seen: _Seen, window: int) -> None:
        if len(self._window) >= window:
            gone = self._window.popleft()
            self._all.count(gone, -1)
            sums = self._sums[gone.source]
            sums.count(gone, -1)
            if not sums.labels:
                del self._sums[gone.source]
        self._window.append(seen)
        self._all.count(seen, 1)
        self._sums.setdefault(seen.source, _Sums()).count(seen, 1)

    @property
    def held_share(self) -> float:
        """Return the share of the window's labels that are of quarantined sources."""
        held = sum(sums.labels for name, sums in self._sums.items() if self._held(name))
        return held / len(self._window) if self._window else 0.0

    def _held(self, name: str) -> bool:
        source = self._sources.get(name)
        return source is not None and source.quarantined

    def _source(self, name: str, most: int) -> _Source | None:
        """Return what is kept of a source, heard of just now; None where the quarantined take all room."""
        source = self._sources.pop(name, None)
        if source is None:
            if len(self._sources) >= most:
                oldest = next((one for one, kept in self._sources.items() if not kept.quarantined), None)
                if oldest is None:
                    self.counts["sources", "no_room"] += 1
                    return None
                del self._sources[oldest]
                self.counts["sources", "evicted"] += 1
            source = _Source()
        self._sources[name] = source
        return source

    def _test(self, name: str, source: _Source, trust: Trust, loss: int, truth: int) -> Finding | None:
        """Bet on a label of a source; return the finding where that proves it to be far from the others."""
        own, all_of = self._sums.get(name) or _Sums(), self._all
        others = all_of.learned - own.learned
        if others < OTHERS_MIN:
            return None
        binary = self._task == "binary"
        rate = (all_of.truth - own.truth) / others
        tested: list[tuple[int, float, float, float, float]] = []
        if loss >= 0 and (scored := all_of.losses - own.losses):
            usual = (all_of.loss - own.loss) / scored / MILLION
            mean = (own.all_loss + loss) / (own.all_losses + 1) / MILLION
            tested.append((0, loss / MILLION, usual + trust.loss_margin, mean, usual))
        if binary:
            mean = (own.all_truth + truth) / (own.labels + 1)
            tested += [
                (1, float(truth), rate + trust.rate_margin, mean, rate),
                (2, 1.0 - truth, 1.0 - rate + trust.rate_margin, mean, rate),
            ]
        threshold = float(trust.false_quarantine_every * (len(_TESTS) if binary else 1))
        found = None
        for number, value, bound, mean, usual in tested:
            if bound >= 1.0:
                continue
            grown = [
                min((one + 1.0) * (1.0 + bet * (value / bound - 1.0)), EVIDENCE_MAX)
                for one, bet in zip(source.wealth[number], BETS, strict=True)
            ]
            source.wealth[number] = grown
            evidence = sum(grown) / len(grown)
            if found is None and evidence >= threshold:
                source.quarantined = True
                found = Finding(
                    name, _TESTS[number], mean, usual, source.labels, evidence, threshold, 0.0, pauses=False
                )
        return found

    def release(self, name: str) -> bool:
        """Trust a source again, as if it were new; return whether it was in quarantine."""
        if not self._held(name):
            return False
        self._sources[name] = _Source()
        self._dirty = True
        return True

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state; nothing where everybody is trusted."""
        if self.rules is None:
            return {}
        scale = None if self._scale is None else self._scale.state()
        return {"sources": msgspec.msgpack.encode(_State(self._sources, list(self._window), scale))}

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state; a checkpoint from before there were rules has none."""
        self._clear()
        data = entries.get("sources")
        if data is not None:
            state = msgspec.msgpack.decode(data, type=_State)
            self._sources = state.sources
            for seen in state.window:
                self._keep(seen, len(state.window))
            if self._scale is not None and state.scale is not None:
                self._scale.restore(state.scale)
        self._dirty = False
