"""What a definition says: fields, windows, expressions, conditions, rules, and the plan they are compiled to.

Lives here: immutable values whose text is their meaning, the types they have, what is refused, the catalogue.
Never here: an event, memory, the computation of a value (`operators/windows`).

Read in this order: `by` (the words a user writes), `fields` and `expressions` (what they make),
`conditions`, `transforms`, `window_kinds`, `rules`; then `types` (what is refused) and `plan` (what is kept
for it); `feature_types`, `literals` and `digest` where they are met; `catalogue` (versions, descriptions) and
`sizes` last.  Others may import everything here.
"""
