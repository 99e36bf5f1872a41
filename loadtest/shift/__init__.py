"""What watching for shift is worth: planted shifts and faults, false alarms on streams that stand still, its
cost.

Lives here: streams, what is planted, runs, the tables of `docs/drift-results.md` (`python -m
loadtest.shift`). Never here: what decides (`operators/drift`).

Read in this order: `streams` (days to draw from, and a model), `plants` (what is done to them), `trial` (one
run), `power` (how many labels it takes), `cost` (microseconds of an event), `whole_path` (the same in a whole
run), `tables`, `__main__`.
"""
