"""The examples log read once more, beside the race: what a candidate learns before it enters.

Lives here: which records of a log are examples that count, a fold of them for one candidate.
Never here: the race and its own fold (`engine/machines/learner.py`), reading the log (`engine/worker`).

Read in this order: `counted_examples`, `warm_up`.  The shell may import everything here.
"""
