"""Watching: has the world changed?

Lives here: River's detectors over the champion's loss, labels and features; one verdict on shift from blocks
of everything that was served.  Never here: what follows from an alarm (`operators/race/arena.py`), alerts
that people read.

Read in this order: `detectors` alone; then `watch` (what a definition says), `sampler` (the scorer's half),
`watcher` (the learner's half).  Others may import everything here.
"""
