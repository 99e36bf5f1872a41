"""What a worker says of itself while it runs: log lines with figures, at most one a minute for each matter.

Lives here: record keys, labels without events, dead letters, bounds of the join, the race.
Never here: the counters themselves (`engine/counters.py`), what is done about it.

Read in this order: `dead_letters`, `record_keys`, `labels`, `given_up`, `race`: each stands alone.  Others
may import everything here.
"""
