"""What a verdict says: which shift, which features, how fast it came, what it costs, what it rests on.

Lives here: the figures of everything seen since the change.  Never here: whether to say anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
from msgspec.structs import replace

from operators.drift.frame import ABOVE, BELOW, CELLS, MISSING, SCORE_CELLS, CellFrame, quantiles
from operators.drift.label_shift import bbse
from operators.drift.labelled import Labelled, ServedRows, contrast, misfit
from operators.drift.triage import ACTS, Shift, Sign, fault_signs, mixture_fit, triage
from operators.drift.two_sample import Array, chi_square, ks, permutation_p, population_stability
from topics.messages import Task

__all__ = ["Since", "told"]

TOLD_MAX: Final = 5
"""Features that a verdict names."""
MOVED: Final = 4.0
"""Log of the bets on a feature or on scores that says they moved."""
MOVED_BET: Final = 1.5
LABELS_MIN: Final = 100
"""Labels of events since the change from which on they decide."""
RECENT_BLOCKS: Final = 3
"""The newest blocks show a fault undiluted, where the beginning is not sure."""
QUANTILES: Final = (0.25, 0.5, 0.75)
"""Further out they lie in the widest cells, where a shift would put them anywhere."""
SUDDEN: Final = 0.6
"""Of the size that a shift has in the end, what it must have in its first third."""


class Since(NamedTuple):
    """Everything since a change, and what it is compared with."""

    frame: CellFrame
    blocks: Array
    """Means of the blocks since, one a row."""
    expected: Array
    reference: Array
    """Means of the reference's blocks."""
    unusual: Sequence[Mapping[str, float]]
    """Normal scores by statistic of the blocks since."""
    labels: Sequence[Labelled]
    """Of events since, a block each; none before there is a reference of labels."""
    reference_labels: Sequence[Labelled]
    before: Labelled | None
    """The same as one."""
    task: Task
    seed: int
    silent: Mapping[int, int]
    """Partitions that stopped sending, and for how many blocks."""


def told(shift: Shift, seen: Since, evidence: Mapping[str, float]) -> Shift:
    """Return the verdict with everything that can be said of it now."""
    count = len(seen.frame.features)
    now = seen.blocks.mean(0)
    shares = now[: count * CELLS].reshape(count, CELLS)
    usual = seen.expected[: count * CELLS].reshape(count, CELLS)
    scores = now[count * CELLS : count * CELLS + SCORE_CELLS]
    names = [feature.name for feature in seen.frame.features]
    refused = float(seen.blocks[-RECENT_BLOCKS:, -2].mean() - seen.expected[-2])
    recent = seen.blocks[-RECENT_BLOCKS:, : count * CELLS].mean(0).reshape(count, CELLS)
    most = seen.reference[:, : count * CELLS].reshape(-1, count, CELLS)
    beyond = (most[:, :, BELOW] + most[:, :, ABOVE]).max(0)
    signs = [Sign("", f"silent:{partition}", blocks) for partition, blocks in seen.silent.items()]
    signs += fault_signs(names, recent, usual, beyond, refused)
    before = seen.before
    known = sum(block.rows for block in seen.labels)
    fit = linked = None
    if known >= LABELS_MIN:
        served = _served(seen.frame, seen.blocks), _served(seen.frame, seen.reference)
        fit = misfit(seen.labels, seen.reference_labels, *served)
        linked = contrast(seen.labels, seen.reference_labels)
    explained = mixture_fit(scores, before) if before is not None and before.rows else 0.0
    sums = {name: _won(seen.unusual, name) for name in seen.unusual[-1]}
    verdict = triage(signs, fit, linked, explained)
    ranked = sorted(names, key=lambda name: -sums.get(f"feature:{name}", 0.0))
    blamed = [sign.feature for sign in signs if sign.feature]
    unusual = [name for name in ranked if sums.get(f"feature:{name}", 0.0) >= MOVED]
    named = list(dict.fromkeys(blamed + unusual))
    return replace(
        shift,
        verdict=verdict,
        features=tuple(named[:TOLD_MAX]),
        pace=_pace(seen, count),
        reference_loss=before.loss / before.rows if before is not None and before.rows else None,
        estimated_loss=_estimated(scores, before),
        true_loss=sum(block.loss for block in seen.labels) / known if fit else None,
        act=ACTS[verdict],
        evidence={
            **shift.evidence,
            **evidence,
            **_figures(seen, named[:TOLD_MAX], shares, usual),
            **({f"misfit_{name}": value for name, value in fit._asdict().items()} if fit else {}),
            **({f"linked_{name}": value for name, value in linked._asdict().items()} if linked else {}),
            **{f"{sign.sign}:{sign.feature}".rstrip(":"): sign.share for sign in signs[:TOLD_MAX]},
            "mixture_explains": explained,
            **_labels(seen.labels, before, seen.task),
            **_classes(scores * float(seen.blocks[:, -1].sum()), before, seen.task),
        },
    )


def _served(frame: CellFrame, blocks: Array) -> ServedRows:
    """Return sums of score cells and places, and rows, of rows as served."""
    count = len(frame.features)
    scores = blocks[:, count * CELLS : count * CELLS + SCORE_CELLS]
    means = np.hstack([scores, blocks[:, -2 - count : -2]])
    rows = np.broadcast_to(blocks[:, -1:], means.shape)
    return ServedRows(means * rows, rows)


def _won(unusual: Sequence[Mapping[str, float]], name: str) -> float:
    """Return the log of a bet on a statistic over the blocks."""
    values = [scores[name] for scores in unusual if name in scores]
    return sum(MOVED_BET * value - MOVED_BET * MOVED_BET / 2.0 for value in values)


def _pace(seen: Since, count: int) -> Literal["sudden", "gradual"]:
    """Return whether the shift had its size from the beginning."""
    apart = np.sqrt(((seen.blocks - seen.expected)[:, : count * CELLS + SCORE_CELLS] ** 2).sum(1))
    third = max(1, len(apart) // 3)
    return "sudden" if apart[:third].mean() >= SUDDEN * apart[-third:].mean() else "gradual"


def _estimated(scores: Array, before: Labelled | None) -> float | None:
    """Return the mean loss of scores like these, by the losses of the reference's: no label is needed.

    Confidence-based performance estimation with the calibration of the reference, cell by cell of the score.
    """
    if before is None or not before.rows:
        return None
    rows = np.array(before.table, dtype=float).sum(0)
    by_score = np.where(rows > 0, np.array(before.losses) / np.maximum(rows, 1.0), before.loss / before.rows)
    return float(scores @ by_score)


def _figures(seen: Since, names: Sequence[str], shares: Array, usual: Array) -> dict[str, float]:
    """Return distances of the features named, and of all together, with its permutation of blocks."""
    figures: dict[str, float] = {}
    known = [feature.name for feature in seen.frame.features]
    for name in names:
        row = known.index(name)
        if seen.frame.features[row].numeric:
            figures[f"ks:{name}"] = float(ks(shares[row], usual[row]))
            now, before = (
                quantiles(seen.frame.features[row], one, QUANTILES) for one in (shares[row], usual[row])
            )
            figures |= {f"q{100 * at:.0f}:{name}": value for at, value in zip(QUANTILES, now, strict=True)}
            figures |= {
                f"q{100 * at:.0f}_usual:{name}": one for at, one in zip(QUANTILES, before, strict=True)
            }
        figures[f"psi:{name}"] = float(population_stability(shares[row], usual[row]))
        figures[f"chi_square:{name}"] = float(chi_square(shares[row], usual[row]))
        figures[f"missing_share:{name}"] = float(shares[row, MISSING])
    kernels = len(known) * CELLS + SCORE_CELLS
    cosines = slice(kernels, kernels + 2 * len(seen.frame.kernels.frequencies[0]))
    figures["mmd_p"] = permutation_p(seen.reference[:, cosines], seen.blocks[:, cosines], seen.seed)
    return figures


def _labels(since: Sequence[Labelled], before: Labelled | None, task: Task) -> dict[str, float]:
    """Return the range of a regression's labels, or the share of classes that nobody knew; and what is
    usual."""
    if before is None or not since or task == "binary":
        return {}
    figures: dict[str, float] = {}
    for name, blocks in (("", since), ("_usual", [before])):
        if task == "multiclass":
            rows = sum(block.rows for block in blocks)
            figures[f"labels_unknown{name}"] = sum(sum(block.table[-1]) for block in blocks) / max(rows, 1)
        elif ranges := [block.span for block in blocks if block.span is not None]:
            figures[f"label_min{name}"] = min(low for low, _ in ranges)
            figures[f"label_max{name}"] = max(high for _, high in ranges)
    return figures


def _classes(answers_by_cell: Array, before: Labelled | None, task: Task) -> dict[str, float]:
    """Return the share of the positive class by BBSE, with its interval; binary tasks only."""
    if before is None or task != "binary":
        return {}
    table = np.array(before.table, dtype=float)
    if not table.sum():
        return {}
    share = table[1].sum() / table.sum()
    above = np.cumsum(table.sum(0)[::-1])[::-1] / table.sum()
    cut = max(1, int(np.argmin(np.abs(above - share))))
    answers = [float(answers_by_cell[:cut].sum()), float(answers_by_cell[cut:].sum())]
    pair = np.stack([table[:, :cut].sum(1), table[:, cut:].sum(1)], axis=1)
    prior = bbse(pair, answers)
    if prior is None:
        return {"positive_share_reference": float(share)}
    return {
        "positive_share_reference": float(share),
        "positive_share_bbse": prior.shares[1],
        "positive_share_bbse_margin": prior.margins[1],
    }
