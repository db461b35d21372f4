"""Peers: sessions and discovery over py-libp2p.

Importing this package imports nothing heavy; `open_transport` and `open_discovery` live in
`transport` and `discovery`.
"""

from node.adapters.p2p import lean

lean.load()
