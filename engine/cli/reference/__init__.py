"""What `--help` says beside what a command says of itself.

Lives here: one example of each command, where it stands.  Never here: what a command does.

Read in this order: `examples`.  `engine/cli/main.py` imports from here, and `docs/cli_page.py` prints it.
"""
