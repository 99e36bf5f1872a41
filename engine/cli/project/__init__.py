"""Commands around a project: one is begun from a sample, developed, and tried.

Lives here: options, words and exit codes.  Never here: what they do (`engine/project`).

Read in this order: `init`.
"""
