"""Commands about what is watched.

Lives here: arguments, tables, words.  Never here: what is watched (`operators/monitor`), topics
(`engine/alerts`).

Read in this order: `alerts`.  Others may import everything here.
"""
