"""How good answers are before their labels come.

Lives here: the figures that calibrated scores let expect, beside the truth that comes later; the scorer's
half, which counts the scores of all answers.  Never here: whether the world has changed (`operators/drift`).

Read in this order: `answered` (scores by bin, block by block), `estimate` (what they let expect).  Others may
import everything here.
"""
