"""One outside thing each: libp2p, the chain, engines, the store.

Their libraries' errors end here, and they don't import each other.
"""
