"""Parse the command line and call `app`; no logic.

Importing this package imports nothing else: `node.__main__` reads `verbs` before it knows whether
the command is ours.
"""
