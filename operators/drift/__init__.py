"""Watching: has the world changed?

Lives here: River's detectors over the champion's loss, labels and features; one verdict on shift from blocks
of everything that was served.  Never here: what follows from an alarm (`operators/race/arena.py`), alerts
that people read.

Read in this order: `detectors` alone; then `watch` (what a definition says), `sampler` (the scorer's half),
`watcher` (the learner's half: the order of everything else), `frame` (cells of features, scores, labels),
`two_sample` (distances), `baseline` (blocks of the reference), `reference` (what a block is compared with),
`labelled` and `ledger` (labels by class and score), `budget` (bets and the promise), `triage` (which shift it
is), `label_shift` (class shares without labels), `told` (what a verdict says).

Others may import everything here.
"""
