"""The store on SQLite: `open_stores` gives the ports of `roles.stores` for one home."""

from node.adapters.store.stores import open_stores, open_stores_read_only

__all__ = ["open_stores", "open_stores_read_only"]
