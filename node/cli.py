"""Parse the command line and call `app`; no logic."""
