"""Log and wait: what was served waits, by event id, for what turned out to be true.

Lives here: the join of labels with answers, the answers that wait, their horizon and their bounds.
Never here: what is made of a joined example (`engine/machines/outbox.py`), learning.

Read in this order: `join` (what a label meets), `pending` (found by id and by deadline), `answered` (what
waits). Others may import everything here.
"""
