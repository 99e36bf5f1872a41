"""Are served features what the raw events say?

Lives here: the comparison of served features with their recomputation, for a sample of keys, and what of a
state may be carried over to a changed definition.  Never here: topics (`engine/offline/skew.py`).

Read in this order: `comparison`, `sample`, `carryover`.  Others may import everything here.
"""
