"""The `headrace` command: one file a group of commands.

Lives here: arguments in, words, tables and exit codes out.  Never here: the work itself.

Read in this order: `main`, `options`, then the command in question.  Nobody else imports from here, but
`load_pipeline` and `report`.
"""
