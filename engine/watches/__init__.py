"""What a worker logs about itself while it runs: lines with figures, at most one a minute for each matter.

Lives here: counters that must not grow unseen, labels without events, dead letters, the race.
Never here: the counters themselves (`engine/counters.py`), what is done about it.

Read in this order: `pace` (how often), `counter_lines`, `labels`, `dead_letters`, `race`.  Others
may import everything here.
"""
