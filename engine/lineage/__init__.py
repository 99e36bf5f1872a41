"""Where models come from: the versions of a pipeline, and the way of one prediction, out of its logs.

Lives here: what decisions, pointers and the examples log say of versions and predictions; the commands by
which a person decides.  Never here: what a record does to a model (`engine/machines`), reading logs
(`engine/offline/replay.py`), arguments and tables (`engine/cli`).

Read in this order: `history`, `sources` (which log is asked); then `reproduction`, `erasing`, `explanation`,
`card`; `commands` and `letters` (dead letters) stand alone.  Others may import everything here.
"""
