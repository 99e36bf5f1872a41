"""Answers for those outside: read back from the predictions topic.

Lives here: reading what counts, with no group and no state but positions; `POST /predict`, which publishes an
event and reads the answer to it.  Never here: which records count (`operators/claims`), how an answer is made
(`engine/machines`), HTTP (`engine/host/pages.py`).

Read in this order: `reading`, `requests`, `predict`.  Others may import everything here.
"""
