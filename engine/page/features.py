"""What the page shows of features: their distribution now beside the reference, and how they have shifted.

Lives here: which features are told, the cells of each as people read them.  Never here: what is collected or
compared: that is what the watcher keeps anyway (`operators/drift/watcher.py`), and without `watch` there is
nothing.

The shares name no value of an event; the bounds and categories of the cells do, so they are a part of their
own, for who may see what is about persons.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

from operators.drift.frame import ABOVE, BELOW, CELLS, FIRST, INSIDE, MISSING, ODD, Feature
from operators.drift.two_sample import Array
from operators.drift.watcher import Compared, Watcher

__all__ = ["FEATURES_SHOWN", "cell_names_of", "features_told"]

FEATURES_SHOWN: Final = 24
"""Features told, those first that are the most unusual now."""
DIGITS: Final = 4


def features_told(watcher: Watcher) -> dict[str, Any]:
    """Return how far the reference is, and of the most unusual features the shares of cells and the shift."""
    told = watcher.report()
    compared = watcher.compared()
    plain = {
        "reference": told["reference"],
        "reference_blocks": told["reference_blocks"],
        "end_ms": None,
        "features": [],
        "left_out": told["ignored_features"],
    }
    if compared is None:
        return plain
    rows = _rows(compared)
    return plain | {
        "end_ms": compared.end_ms,
        "features": [_feature(compared, row) for row in rows],
        "left_out": compared.frame.ignored + len(compared.frame.features) - len(rows),
    }


def cell_names_of(watcher: Watcher) -> dict[str, list[str]]:
    """Return what lies in each cell of the features told: bounds, or categories."""
    compared = watcher.compared()
    if compared is None:
        return {}
    features = compared.frame.features
    return {features[row].name: _names(features[row]) for row in _rows(compared)}


def _rows(compared: Compared) -> list[int]:
    """Return the features told by their rows in the frame, the most unusual first."""
    features = compared.frame.features
    last = compared.history[-1][1] if compared.history else {}
    ranked = sorted(range(len(features)), key=lambda row: -last.get(f"feature:{features[row].name}", 0.0))
    return ranked[:FEATURES_SHOWN]


def _feature(compared: Compared, row: int) -> dict[str, Any]:
    feature = compared.frame.features[row]
    shift = [scores.get(f"feature:{feature.name}") for _, scores in compared.history]
    return {
        "name": feature.name,
        "numeric": feature.numeric,
        "now": None if compared.now is None else _shares(feature, row, compared.now),
        "usual": _shares(feature, row, compared.expected),
        "shift": [None if one is None else round(one, 2) for one in shift],
    }


def _shares(feature: Feature, row: int, means: Array) -> dict[str, Any]:
    """Return the shares of missing and odd values, and of the cells in their order."""
    cells = means[row * CELLS : (row + 1) * CELLS].round(DIGITS).tolist()
    return {"missing": cells[MISSING], "odd": cells[ODD], "cells": [cells[at] for at in _places(feature)]}


def _places(feature: Feature) -> Sequence[int]:
    """Return the cells that a feature has, besides missing and odd."""
    if feature.numeric:
        return [BELOW, *range(FIRST, FIRST + len(feature.edges) + 1), ABOVE]
    return [*range(FIRST, FIRST + min(len(feature.categories), INSIDE)), ABOVE]


def _names(feature: Feature) -> list[str]:
    """Return what lies in each of these cells."""
    if not feature.numeric:
        known = sorted(feature.categories.items(), key=lambda one: one[1])
        return [*(name for name, cell in known if cell != ABOVE), "others"]
    bounds = [f"{bound:.4g}" for bound in (feature.low, *feature.edges, feature.high)]
    inside = [f"{low} to {high}" for low, high in pairwise(bounds)]
    return [f"below {bounds[0]}", *inside, f"above {bounds[-1]}"]
