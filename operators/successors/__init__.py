"""Racers that come of others: the next version of one that is released, challengers that start by themselves.

Lives here: when it is time for them, and the comparison by which a release is held.  Never here: how the
line-up changes, who serves, whether a challenger has proven better (`operators/race`).

Read in this order: `release` (a version that stands while its twin learns), `challenges` (who joins by
itself).  Others may import everything here.
"""
