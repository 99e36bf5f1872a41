"""Watching: has the world changed?

Lives here: River's detectors over the champion's loss, labels and features.  Never here: what follows from an
alarm (`operators/race/arena.py`), alerts that people read.

Read in this order: `detectors`, the only file.  Others may import everything here.
"""
