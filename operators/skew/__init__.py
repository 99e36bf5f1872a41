"""Are served features what the raw events say?

Lives here: the comparison of served features with those of the same windows fed again, for a sample of keys.
Never here: topics (`engine/offline/skew.py`).

Read in this order: `comparison`, `sample`.  Others may import everything here.
"""
