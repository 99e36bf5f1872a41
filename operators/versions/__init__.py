"""Where new versions come from: the next one of a released candidate, challengers that start by themselves.

Lives here: when it is time for them, and the comparison by which a release is held.  Never here: how the
line-up changes, who serves, whether a challenger has proven better (`operators/race`).

Read in this order: `release` (a version that stands while its twin learns), `challenges` (who joins by
itself).  Others may import everything here.
"""
