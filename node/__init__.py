"""A peer-to-peer market for GPU inference."""

__version__ = "0.1.0"
