"""Programs that attack: `python -m tests.attack.attackers.NAME`, orders as JSON on stdin."""
