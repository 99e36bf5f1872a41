"""The user's definition: a pipeline, its streams and candidates, checked when loaded.

Lives here: what a pipeline file says, its refusals, its text (what checkpoints are compared by), the file
itself. Never here: the surroundings of a run (`engine/settings.py`), what is done with it.

Read in this order: `pipeline`, `streams`, `weak`, `candidates`, `monitoring` and `behaviour` (what is seen
beside the race), `keyed` (one race per key), `file`, `notebook` (a
definition as HTML).  Others may import everything here.
"""
