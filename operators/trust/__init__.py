"""Whom labels are from, and how far that is trusted.

Lives here: how many labels of one source are learned, when a source is taken out, what is kept of sources.
Never here: what an example does once it is learned (`operators/race`), which field names the source
(`topics/codec.py`).

Read in this order: `sources`.  Others may import everything here.
"""
