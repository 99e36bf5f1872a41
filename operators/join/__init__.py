"""Log and wait: what was served is kept, by event id, until its label comes.

Lives here: the join of labels with answers, the answers that wait, their horizon and their bounds.
Never here: what is made of a joined example (`engine/machines/outbox.py`), learning.

Read in this order: `join` (what a label meets, what became of all), `combine` (what several labels become),
`weak` (labels by vote), `pending` (what waits, found by id and by deadline), `completeness` (who has a label
at which age), `queries` (whose label people are asked for).
Others may import everything here.
"""
