"""One race per key: the state machines of a pipeline with `per=`.

Lives here: which races are in memory, which key's race a record or an event belongs to.
Never here: what a race is (`engine/machines/race.py`), clocks, sockets, files.

Read in this order: `races` (in memory and stored), `totals`, `keyed_learner`, `keyed_scorer`.  The shell may
import everything here.
"""
