"""A blend as a definition says it: who has a say, how weights move, or which weights are given.

Lives here: `Blend`, the refusals that only the names of the other candidates need, and who of a field serves
first.  Never here: weights as they move (`operators/models/mixture.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

from operators.models.mixture import Mixture
from operators.race.candidates import Artefact, Candidate
from topics.errors import DefinitionError
from topics.messages import Task

__all__ = [
    "BLEND",
    "OPENING",
    "Blend",
    "OpeningName",
    "check_blends",
    "first_blend",
    "first_of",
    "with_blend",
]

OpeningName = Literal["blend", "leader"]
OPENING: OpeningName = "blend"
"""How a race opens where the file says neither this nor who serves first."""
BLEND = "blend"
"""The name of the blend that joins a field which names no champion."""


@dataclass(frozen=True)
class Blend:
    """A candidate that answers with the weighted mean of the others' scores; it takes none of its own.

    `eta`
        How fast weights follow the losses of the others: after each label each weight is multiplied by
        exp(-eta x loss), the loss a squared distance in [0, 1].
    `share`
        The part of all weights that is shared out evenly after each label: how fast a change is followed.
    `of`
        Names of the candidates that have a say; None for all that are no blends, challengers that start later
        included.
    `weights`
        Weights by name, in any unit, that no label changes, to combine objectives that are learned apart; the
        command `weights` changes them.  With them `eta` and `share` mean nothing.

    >>> Blend(weights={"fast": 2, "careful": 1}).members
    ('fast', 'careful')
    """

    eta: float = 0.5
    share: float = 0.01
    of: Sequence[str] | None = None
    weights: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot work whoever else races.  Raises DefinitionError."""
        if not (isfinite(self.eta) and self.eta > 0.0):
            raise DefinitionError(f"Blend.eta is {self.eta!r}", hint="give a number above 0, such as 0.5")
        if not 0.0 <= self.share < 1.0:
            raise DefinitionError(f"Blend.share is {self.share!r}", hint="give a part of 1, such as 0.01")
        if isinstance(self.of, str):
            raise DefinitionError(
                f"Blend.of is the text {self.of!r}", hint=f"give a list of names: of=[{self.of!r}, ...]"
            )
        if self.weights is None:
            return
        wrong = [name for name, weight in self.weights.items() if not (isfinite(weight) and weight >= 0.0)]
        if wrong or not sum(self.weights.values()) > 0.0:
            raise DefinitionError(
                f"Blend.weights is {dict(self.weights)!r}",
                hint="give each name a weight of 0 or more, one at least above 0",
            )
        if self.of is not None and set(self.of) != set(self.weights):
            raise DefinitionError(
                f"Blend.of names {', '.join(self.of)}, and Blend.weights {', '.join(self.weights)}",
                hint="leave `of` out: who has a weight has a say",
            )

    @property
    def members(self) -> tuple[str, ...] | None:
        """Return the names of those that have a say; None for all."""
        named = self.of if self.weights is None else self.weights
        return None if named is None else tuple(named)

    def mixture(self, task: Task) -> Mixture:
        """Return the weights of this blend, nothing learned."""
        return Mixture(task, eta=self.eta, share=self.share, of=self.members, fixed=self.weights)

    def clone(self) -> Blend:
        """Return the same definition, as River's models do."""
        return self


def with_blend(
    candidates: Mapping[str, Candidate], champion: str | None, opening: OpeningName
) -> dict[str, Candidate]:
    """Return the candidates, with a blend of all where nobody is named to serve first and none is defined.

    Raises DefinitionError where another has its name.
    """
    joined = dict(candidates)
    if champion is None and opening == "blend" and len(joined) > 1 and first_blend(joined) is None:
        if BLEND in joined:
            raise DefinitionError(
                f"no champion is named, so a blend called `{BLEND}` serves first, and a model is called so",
                hint='rename the model, name a champion, or say opening="leader"',
            )
        joined[BLEND] = Candidate(Blend())
    return joined


def first_of(candidates: Mapping[str, Candidate], opening: OpeningName) -> str:
    """Return who serves first where nobody is named: the first blend, or the first of all."""
    blend = first_blend(candidates) if opening == "blend" else None
    return blend or next(iter(candidates))


def first_blend(candidates: Mapping[str, Candidate]) -> str | None:
    """Return the name of the first blend, None without one."""
    return next((name for name, one in candidates.items() if isinstance(one.model, Blend)), None)


def check_blends(candidates: Mapping[str, Candidate]) -> None:
    """Raise DefinitionError for a blend that the other candidates leave nothing to blend."""
    base_models = [name for name, one in candidates.items() if not isinstance(one.model, Blend)]
    for name, candidate in candidates.items():
        blend: Any = candidate.model
        if not isinstance(blend, Blend):
            continue
        if not base_models:
            raise DefinitionError(
                f"`{name}` blends the scores of others, and there are none", hint="add models that score"
            )
        if strangers := [one for one in blend.members or () if one not in base_models]:
            raise DefinitionError(
                f"blend `{name}` is of `{strangers[0]}`, which is no model that scores by itself",
                hint=f"name some of: {', '.join(base_models)}",
            )
        fresh = candidate.start == "fresh" or isinstance(candidate.start, Artefact)
        if not fresh or candidate.release is not None:
            raise DefinitionError(
                f"blend `{name}` has {'a release' if candidate.release else f'start={candidate.start!r}'}",
                hint="leave it out: weights are learned from the scores of others as they are served",
            )
        if candidate.budget_ms is not None:
            raise DefinitionError(
                f"blend `{name}` has budget_ms={candidate.budget_ms}, and takes no score of its own",
                hint="give the models that it blends a budget each",
            )
