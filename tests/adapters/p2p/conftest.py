"""The tests here run the library as a node does: without the parts that it does not need."""

from node.adapters.p2p import lean

lean.load()
