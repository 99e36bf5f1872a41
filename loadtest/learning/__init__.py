"""What the learning is worth: real streams through the backtest, beside simple rules on the same scores.

Lives here: the streams, the rules, the tables of `docs/learning-results.md` (`python -m loadtest.learning`).
Never here: what decides about champions (`operators/race`); simulations of evidence.

Read in this order: `streams` (what is raced), `stream_run` (one run, row by row), `rules` (who else might
have answered), `releases` (the loop of the book), `hostile` (attackers among the sources of labels), `delays`
(labels that come late, or wrong at first), `imbalance` (one label in a hundred is true), `calibrated`,
`estimates`, `bad_slices` and `positions` (what is seen of answers), `monitor_cost`, `page`, `__main__`.
"""
