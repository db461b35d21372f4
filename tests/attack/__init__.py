"""Attacks on real nodes by separate processes, honest traffic beside each: `scripts/attack`."""
