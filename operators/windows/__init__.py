"""Windows: events go in, features come out.

Lives here: what is kept of each key's events and labels, and every aggregate read from it; expressions over
one event.  Never here: what a definition may say (`operators/language`), models, topics, clocks.

Read in this order: `features` (one event), `log` (the entries of a key), `aggregates` (where each window
starts, and how it is read), `prefix_sums` and `exact` (why sums never drift), `holistic` (modes and medians);
then the other ways of keeping, `tiles`, `sessions` and `decay`, on `keyed_state` (eviction, the wait for the
watermark) and `summaries`; `evaluate` (expressions as functions) and `asof` (stored values as of a time) by
themselves.

Others may import `Features`, `CarriedOver`, `JoinedLabel`, `key_reader` and `label_entry` from `features`,
`AsOf` from `asof`, and what `evaluate` exports.
"""
