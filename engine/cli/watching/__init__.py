"""Commands about what is watched.

Lives here: arguments, tables, words.  Never here: what is watched (`operators/monitor`), topics
(`engine/alerts`).

Read in this order: `alerts` (who was told what), `drift` (what has shifted), `status` (who works
on a pipeline).  Others may import everything here.
"""
