"""Values of a feature as few texts: categories by name, numbers by quantile bins, and the rest as other.

Lives here: where bins lie, how many categories have a name.  Never here: what is counted by them.

Bins are settled once, from the first rows: a slice whose edges moved would be another slice every day.
Categories get a name as they come, up to a limit; a number with as few values as that counts as a category.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise

import msgspec

from topics.messages import FeatureValue

__all__ = ["MISSING", "OTHER", "Bins", "settled"]

MISSING = "(missing)"
OTHER = "(other)"
"""What has no name of its own: values beyond the limit."""


class Bins(msgspec.Struct):
    """The names of one feature's values.

    >>> bins = settled([3.0, 1.0, 2.0, 4.0, 5.5, 9.0], values_max=3, bins=3)
    >>> bins.edges, bins.name(1.5), bins.name(4.0), bins.name(100), bins.name(None)
    ([2.5, 4.75], '<= 2.5', '2.5 to 4.75', '> 4.75', '(missing)')
    >>> bins = settled(["a", "b"], values_max=3, bins=3)
    >>> bins.name("a"), bins.name("c"), bins.name("d"), list(bins.named)
    ('a', 'c', '(other)', ['a', 'b', 'c'])
    """

    values_max: int
    edges: list[float] | None = None
    """Of quantile bins, upwards; None where values are categories."""
    named: dict[str, None] = {}
    """Categories that have a name, in the order in which they came."""

    def name(self, value: FeatureValue | None) -> str:
        """Return the name of a value; a new category gets one while there are any left."""
        if value is None:
            return MISSING
        if self.edges is not None and not isinstance(value, str):
            return _names(tuple(self.edges))[bisect_left(self.edges, float(value))]
        text = _text(value)
        if text in self.named:
            return text
        if len(self.named) >= self.values_max or self.edges is not None:
            return OTHER
        self.named[text] = None
        return text


def settled(values: Iterable[FeatureValue | None], *, values_max: int, bins: int) -> Bins:
    """Return the bins of a feature from its first values.

    Numbers of more than `values_max` different values get `bins` bins, as far as ties allow.
    """
    seen = [value for value in values if value is not None]
    numbers = sorted(float(value) for value in seen if not isinstance(value, bool | str))
    if len(set(numbers)) > values_max and (edges := _edges(numbers, bins)):
        return Bins(values_max, edges)
    made = Bins(values_max)
    for value in seen:
        made.name(value)
    return made


def _edges(ordered: Sequence[float], bins: int) -> list[float]:
    """Return the quantiles between `bins` bins of as many values each, without those that are alike."""
    edges: list[float] = []
    for number in range(1, bins):
        place = number * len(ordered) // bins
        edge = (ordered[place - 1] + ordered[place]) / 2
        if edge < ordered[-1] and (not edges or edge > edges[-1]):
            edges.append(edge)
    return edges


@lru_cache(maxsize=256)
def _names(edges: tuple[float, ...]) -> tuple[str, ...]:
    """Return the names of the bins between these edges."""
    inner = (f"{low:g} to {high:g}" for low, high in pairwise(edges))
    return (f"<= {edges[0]:g}", *inner, f"> {edges[-1]:g}")


def _text(value: FeatureValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
