"""A new pipeline from a sample of data: what its columns are, what they are for, the files that say so.

Lives here: reading a sample, kinds of columns, guesses with their reasons, the text of a project's files.
Never here: options and printing (`engine/cli/project`), what a pipeline means (`engine/definition`).

Read in this order: `sample` (rows as they are), `times` (texts and numbers that are times), `columns` (kinds
and values), `roles` (which column is id, time, key, label), `plan` (fields, features, models of the new
pipeline), `writing` (the files, from `templates`).  `engine/cli/project` imports from here.
"""
