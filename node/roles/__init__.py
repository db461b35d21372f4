"""The trio loops of worker, client and redeemer, and the ports that they need from outside."""
