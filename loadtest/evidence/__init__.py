"""How often evidence swaps without reason, and how soon with one: many simulated races at once.

Lives here: laws of losses, the rule of `operators/race/evidence.py` over arrays of runs, the tables of
`docs/learning-results.md` (`python -m loadtest.evidence`).  Never here: real streams (`loadtest/learning`),
what a worker needs.

Read in this order: `laws` (losses of two models), `rule` (the rule over all runs), `bounds` (what one could
do who knew the law), `tables`, `__main__`.
"""
