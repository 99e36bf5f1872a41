"""What is kept of a backtest, so that it can be looked at and compared later.

Lives here: its loss curves as rows, its record, how two records differ.  Never here: the run
(`engine/offline/backtest.py`), tables (`engine/cli/offline/runs.py`).

Read in this order: `curves`, `records`.  Others may import everything here.
"""
