"""Files and one race per key: what `headrace backtest` does for a pipeline with `per=`.

Lives here: driving scorer and learner of such a pipeline over files, the report by key; one race's log.
Never here: the races (`engine/machines/keyed`), a run with one race (`engine/offline/backtest.py`).

Read in this order: `keyed_backtest`; `one_race` (the part of a log that makes the race of one key).  The
commands and `engine/lineage` may import everything here.
"""
