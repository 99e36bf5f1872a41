"""The race of candidates: test, detect, train, weigh, decide.

Lives here: what one example does to metrics, detectors, models and the decision who serves.
Never here: who answers an event (`operators/models`), where examples come from
(`engine/machines/learner.py`).

Read in this order: `candidates`, `blend` and `field` (what a definition says), `learning` (the order, train),
`losses` and `evaluation` (test), `evidence` and `correlation` (weigh), `arena` (decide), `approval` (what may
stand between); `opening` and `routing` (who answers meanwhile), `good_versions` (what one can go back to),
`commands` (what a person may ask).
Others may import everything here.
"""
