"""What comes of a backtest, so that it can be looked at and compared later.

Lives here: its loss curves as rows, its record, how two records differ, its tables in Python.  Never here:
the run (`engine/offline/backtest.py`), tables of a terminal (`engine/cli/offline/runs.py`).

Read in this order: `curves`, `records`, `results`.  Others may import everything here.
"""
