"""A market on this machine, for people and for tests: a chain, workers, clients."""
