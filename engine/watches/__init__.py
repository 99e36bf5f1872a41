"""What a worker says of itself while it runs: log lines with figures, at most one a minute for each matter.

Lives here: record keys, labels without events, dead letters, bounds of the join, the race.
Never here: the counters themselves (`engine/counters.py`), what is done about it.

Each file stands alone.  Others may import everything here.
"""
