"""Answers for those outside: read back from the predictions topic.

Lives here: reading what counts, with no group and no state but positions.  Never here: which records count
(`operators/claims`), how an answer is made (`engine/machines`).

Read in this order: `reading`.  Others may import everything here.
"""
