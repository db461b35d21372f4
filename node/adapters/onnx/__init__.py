"""Exported decoders on ONNX Runtime, in process."""

from node.adapters.onnx.engine import OnnxEngine, OnnxModel

__all__ = ["OnnxEngine", "OnnxModel"]
