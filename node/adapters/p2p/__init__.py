"""Peers: sessions and discovery over py-libp2p (facts and reasons: docs/protocol.md, "Transport").

Importing this package imports nothing heavy; `open_transport` and `open_discovery` live in
`transport` and `discovery`.
"""
