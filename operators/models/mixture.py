"""A blend's memory: weights over the scores of other racers, and the score that they give together.

Lives here: how weights follow the losses, who has a say in a score, what is too far out to have one.
Never here: what a user writes (`operators/race/blend.py`), who races, the taking of scores.

Strategy: exponential weights with a fixed share, of

    M. Herbster, M. K. Warmuth, "Tracking the best expert", Machine Learning 32 (1998), section 5,

on the scores as served at event time.  After each label

    w_k  =  w_k exp(-eta loss_k)          over those that had an opinion, their sum as before
    w_k  =  (1 - share) w_k + share / n   over all n, so that nobody is lost and a change is followed

Who had no opinion sleeps: its weight is neither praised nor blamed (Y. Freund, R. E. Schapire, Y. Singer,
M. K. Warmuth, "Using and combining predictors that specialize", 1997).  A loss is a squared distance in
[0, 1], for which the weighted mean is the right answer: of P(True), of the class probabilities (half of it),
or of the value in units of the labels' deviation.

A mixture is the model of its racer: stored, restored, compared by digest like the others.  It takes no score.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, cast

from river import stats

from topics.messages import LabelValue, Score, Task

__all__ = ["Blended", "Mixture"]

DEVIATIONS_MAX = 4.0
"""An error of this many standard deviations of the label counts as wholly wrong."""
RANGES_MAX = 1.0
"""A value further outside the labels met so far than this many times their range has no say."""
COMPARED_MIN = 2
"""One opinion alone is compared with nothing: no weight moves."""

Weights = dict[str, float]


class Blended(NamedTuple):
    """The score of a mixture, and the weights of the scores that it is made of: they sum to 1."""

    score: Score
    """None where nobody had an opinion."""
    weights: Weights


class Mixture:
    """Weights over the scores of others, for one task.

    `of` names the racers that have a say; None: all that are no mixtures themselves.  `fixed` are weights, in
    proportion, that no label changes.  `members` are always names of racers, in order of start: one that is
    new among them begins with `share / n` of the whole, the place of one that had been wrong all along.

    >>> mixture, pair = Mixture("binary", eta=0.5, share=0.01), ("tree", "linear")
    >>> mixture.blend({"tree": 0.25, "linear": 0.75}, pair)
    Blended(score=0.5, weights={'tree': 0.5, 'linear': 0.5})
    >>> for _ in range(20):
    ...     mixture.learn({"tree": 0.25, "linear": 0.75}, True, pair)
    >>> {name: round(weight, 2) for name, weight in mixture.shares(pair).items()}
    {'tree': 0.03, 'linear': 0.97}
    """

    __slots__ = ("_deviation", "_high", "_low", "_task", "eta", "fixed", "of", "share", "weights")

    def __init__(
        self,
        task: Task,
        *,
        eta: float,
        share: float,
        of: Sequence[str] | None = None,
        fixed: Mapping[str, float] | None = None,
    ) -> None:
        self.eta = eta
        self.share = share
        self.of = None if of is None else tuple(of)
        self.fixed: Weights | None = None if fixed is None else dict(fixed)
        self.weights: Weights = {}
        """As of the last label, by name, in order of start; they sum to 1."""
        self._task: Task = task
        self._low, self._high = math.inf, -math.inf
        self._deviation = stats.Var()
        """Range and deviation of a regression's labels."""

    @property
    def settings(self) -> str:
        """Return in words what it is, whatever its weights: two that say the same can take each other's."""
        of = "all" if self.of is None else ", ".join(self.of)
        return f"a {self._task} blend of {of} with eta={self.eta} and share={self.share}"

    # -- who has a say ------------------------------------------------------------------------------

    def members(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return those of `names` that this mixture is of."""
        return tuple(names) if self.of is None else tuple(name for name in names if name in self.of)

    def shares(self, members: Sequence[str]) -> Weights:
        """Return the weights of the members as they stand, newcomers and leavers seen to; they sum to 1."""
        if self.fixed is not None:
            weights = {name: self.fixed[name] for name in members}
        elif tuple(self.weights) == tuple(members):
            return self.weights
        else:
            weights = self._joined(members)
        total = sum(weights.values())
        return {name: weight / total for name, weight in weights.items()} if total > 0.0 else {}

    def _joined(self, members: Sequence[str]) -> Weights:
        known = sum(self.weights[name] for name in members if name in self.weights)
        if known <= 0.0:
            return dict.fromkeys(members, 1.0)
        begins = (self.share or 1.0) / len(members)
        new = sum(name not in self.weights for name in members)
        kept = (1.0 - begins * new) / known
        return {name: self.weights[name] * kept if name in self.weights else begins for name in members}

    # -- scores -------------------------------------------------------------------------------------

    def blend(self, scores: Mapping[str, Score], members: Sequence[str]) -> Blended:
        """Return the mean of the members' scores by weight; those without an opinion have no say.

        A value far outside the labels' range has none either, unless all are: then each counts as the nearest
        value that has one.
        """
        shares = self.shares(members)
        said = {name: scores[name] for name in shares if scores.get(name) is not None}
        if self._task == "regression":
            said = self._within(cast("dict[str, float]", said))
        total = sum([shares[name] for name in said])
        if total <= 0.0:
            return Blended(None, {})
        weights = {name: shares[name] / total for name in said}
        if self._task == "multiclass":
            return Blended(_mean_of_classes(cast("dict[str, dict[str, float]]", said), weights), weights)
        score = 0.0
        for name, one in said.items():
            score += weights[name] * cast("float", one)
        return Blended(score, weights)

    def _bounds(self) -> tuple[float, float]:
        """Return the least and the largest value that has a say: any, before two labels differ."""
        room = RANGES_MAX * (self._high - self._low)
        return (self._low - room, self._high + room) if room > 0.0 else (-math.inf, math.inf)

    def _within(self, said: Mapping[str, float]) -> dict[str, Score]:
        least, most = self._bounds()
        within: dict[str, Score] = {name: value for name, value in said.items() if least <= value <= most}
        return within or {name: min(max(value, least), most) for name, value in said.items()}

    def left_out(self, scores: Mapping[str, Score], members: Sequence[str]) -> list[str]:
        """Return the members whose values are too far outside the labels' range to have a say."""
        if self._task != "regression":
            return []
        least, most = self._bounds()
        said = [(name, cast("float", scores[name])) for name in members if scores.get(name) is not None]
        return [name for name, value in said if not least <= value <= most]

    # -- labels -------------------------------------------------------------------------------------

    def learn(self, scores: Mapping[str, Score], label: LabelValue, members: Sequence[str]) -> None:
        """Learn one label from the scores that were served with its example."""
        if self.fixed is None:
            losses = self._losses(scores, label, members)
            if len(losses) >= COMPARED_MIN:
                self._weigh(losses, self.shares(members))
        if self._task == "regression":
            value = float(label)
            self._low, self._high = min(self._low, value), max(self._high, value)
            self._deviation.update(value)

    def _weigh(self, losses: Mapping[str, float], shares: Weights) -> None:
        best = min(losses.values())  # taken off all of them: no weight vanishes, whatever eta is
        before = sum([shares[name] for name in losses])
        moved = {name: shares[name] * math.exp(self.eta * (best - loss)) for name, loss in losses.items()}
        total = sum(moved.values())
        if total <= 0.0:  # no share, and those that were right have none left
            self.weights = shares
            return
        scale = (1.0 - self.share) * before / total
        rest, floor = 1.0 - self.share, self.share / len(shares)
        self.weights = {
            name: (moved[name] * scale if name in moved else rest * weight) + floor
            for name, weight in shares.items()
        }

    def _losses(self, scores: Mapping[str, Score], label: LabelValue, members: Sequence[str]) -> Weights:
        """Return the loss of every member that had an opinion; of none before a regression has a unit."""
        said = {name: score for name in members if (score := scores.get(name)) is not None}
        if self._task == "multiclass":
            return {
                name: _half_squared(cast("dict[str, float]", score), cast("str", label))
                for name, score in said.items()
            }
        unit = 1.0
        if self._task == "regression":
            variance = self._deviation.get()
            if variance <= 0.0:
                return {}
            unit = DEVIATIONS_MAX * math.sqrt(variance)
        truth = float(label)
        errors = {name: (cast("float", score) - truth) / unit for name, score in said.items()}
        return {name: min(abs(error), 1.0) ** 2 for name, error in errors.items()}

    # -- copies, and what a person changes ----------------------------------------------------------

    def copy(self) -> Mixture:
        """Return a mixture of its own that holds the same."""
        other = self.clone()
        other.weights = self.weights  # replaced by each label, never changed
        other._low, other._high = self._low, self._high
        if self._task == "regression":
            other._deviation = copy.deepcopy(self._deviation)
        return other

    def forget(self, name: str) -> None:
        """Drop the weight of a racer that has left: another of its name begins like any newcomer."""
        kept = {other: weight for other, weight in self.weights.items() if other != name}
        total = sum(kept.values())
        self.weights = {other: weight / total for other, weight in kept.items()} if total > 0.0 else {}

    def clone(self) -> Mixture:
        """Return the same mixture, nothing learned."""
        return Mixture(self._task, eta=self.eta, share=self.share, of=self.of, fixed=self.fixed)

    def refusal(self, weights: Mapping[str, float]) -> str:
        """Return why these cannot become the fixed weights, empty if they can."""
        if self.fixed is None:
            return "its weights are learned; only a Blend(weights=...) takes others"
        if weights.keys() != self.fixed.keys():
            return f"it needs a weight for each of: {', '.join(self.fixed)}"
        if not all(math.isfinite(weight) and weight >= 0.0 for weight in weights.values()):
            return "weights must be finite and 0 or more"
        return "" if sum(weights.values()) > 0.0 else "one weight at least must be above 0"

    def reweigh(self, weights: Mapping[str, float]) -> None:
        """Replace the fixed weights, for which `refusal` said nothing."""
        self.fixed = dict(weights)


def _mean_of_classes(said: Mapping[str, Mapping[str, float]], weights: Weights) -> dict[str, float]:
    mean: dict[str, float] = {}
    for name, chances in said.items():
        weight = weights[name]
        for label, chance in chances.items():
            mean[label] = mean.get(label, 0.0) + weight * chance
    return mean


def _half_squared(chances: Mapping[str, float], label: str) -> float:
    total = 0.0 if label in chances else 1.0
    for name, chance in chances.items():
        error = (1.0 if name == label else 0.0) - chance
        total += error * error
    return min(total / 2.0, 1.0)
