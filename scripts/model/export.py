"""Writes the trained decoder as the files that ship: each weight is stored once, in half precision.

model.safetensors is a stock Llama checkpoint.  model.onnx is the same decoder in the convention of
exported decoders (`input_ids`, `attention_mask`, `position_ids`, `past_key_values.N.key/value` in;
`logits` at all positions and `present.N.key/value` out); its weights are "external data" that lies
inside model.safetensors, cast to float32 when a session is made.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from shape import ASSISTANT, CHAT_TEMPLATE, END, SPECIAL, START, Shape

Half = NDArray[np.float16]
WEIGHTS, GRAPH = "model.safetensors", "model.onnx"
ALIGNMENT = 64
MASKED = float(np.finfo(np.float32).min)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Where a tensor lies in the weights file, in bytes."""

    offset: int
    length: int
    dims: tuple[int, ...]


def write_weights(path: Path, weights: Mapping[str, Half]) -> dict[str, Span]:
    """A safetensors file; returns where each tensor lies in it."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name in sorted(weights):
        size = weights[name].nbytes
        shape = list(weights[name].shape)
        entries[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-(len(header) + 8) % ALIGNMENT)
    body = b"".join(np.ascontiguousarray(weights[name]).tobytes() for name in sorted(weights))
    path.write_bytes(struct.pack("<Q", len(header)) + header + body)
    start = 8 + len(header)
    return {
        name: Span(
            offset=start + entries[name]["data_offsets"][0],
            length=weights[name].nbytes,
            dims=weights[name].shape,
        )
        for name in weights
    }


class Graph:
    """Collects nodes and initialisers; every method returns the name of its output."""

    def __init__(self, spans: Mapping[str, Span]) -> None:
        self._spans = spans
        self._made: dict[str, str] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: list[onnx.TensorProto] = []

    def node(self, op: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        name = name or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def constant(self, value: Any, kind: Any) -> str:
        array = np.asarray(value, dtype=kind)
        key = f"{array.dtype}:{array.shape}:{array.tobytes().hex()}"
        if key not in self._made:
            self._made[key] = f"constant_{len(self._made)}"
            self.initialisers.append(numpy_helper.from_array(array, self._made[key]))
        return self._made[key]

    def ints(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def weight(self, name: str) -> str:
        """A stored tensor, as float32."""
        if name not in self._made:
            span = self._spans[name]
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT16, dims=span.dims)
            tensor.data_location = TensorProto.EXTERNAL
            place = {"location": WEIGHTS, "offset": span.offset, "length": span.length}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            self.initialisers.append(tensor)
            self._made[name] = self.node("Cast", name, to=TensorProto.FLOAT)
        return self._made[name]

    def linear(self, x: str, name: str) -> str:
        key = f"{name}:transposed"
        if key not in self._made:
            self._made[key] = self.node("Transpose", self.weight(name), perm=[1, 0])
        return self.node("MatMul", x, self._made[key])

    def norm(self, x: str, name: str, eps: float) -> str:
        return self.node("RMSNormalization", x, self.weight(name), axis=-1, epsilon=eps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Positions:
    """What all layers share."""

    cos: str
    sin: str
    bias: str


class DecoderGraph:
    """The nodes of one decoder."""

    def __init__(self, shape: Shape, spans: Mapping[str, Span]) -> None:
        self.shape = shape
        self.graph = Graph(spans)

    def build(self) -> onnx.ModelProto:
        g, shape = self.graph, self.shape
        shared = Positions(cos=self._table("Cos"), sin=self._table("Sin"), bias=self._bias())
        x = g.node("Gather", g.weight("model.embed_tokens.weight"), "input_ids", axis=0)
        for layer in range(shape.layers):
            x = self._layer(x, layer, shared)
        x = g.norm(x, "model.norm.weight", shape.norm_eps)
        g.node("Identity", g.linear(x, "model.embed_tokens.weight"), name="logits")
        return helper.make_model(
            helper.make_graph(
                g.nodes, "decoder", self._inputs(), self._outputs(), initializer=g.initialisers
            ),
            opset_imports=[helper.make_opsetid("", 23)],
            ir_version=11,
            producer_name="scripts/build-model",
        )

    def _table(self, op: str) -> str:
        """Cosines or sines by position, [context, head width / 2]."""
        g, shape = self.graph, self.shape
        half = np.arange(0, shape.head_width, 2, dtype=np.float32) / np.float32(shape.head_width)
        rates = np.float32(shape.rope_theta) ** -half
        # Made from a range, so that the file stays small; a session folds it into a constant.
        zero, one = g.constant(0, np.int64), g.constant(1, np.int64)
        places = g.node("Range", zero, g.constant(shape.context, np.int64), one)
        column = g.node("Unsqueeze", g.node("Cast", places, to=TensorProto.FLOAT), g.ints(1))
        return g.node(op, g.node("Mul", column, g.constant(rates, np.float32)))

    def _bias(self) -> str:
        """0 where a query may look, the least float where not: [batch, 1, sequence, total]."""
        g = self.graph
        zero, one = g.constant(0, np.int64), g.constant(1, np.int64)
        total = g.node("Gather", g.node("Shape", "attention_mask"), one, axis=0)
        fresh = g.node("Gather", g.node("Shape", "input_ids"), one, axis=0)
        queries = g.node("Range", g.node("Sub", total, fresh), total, one)
        keys = g.node("Unsqueeze", g.node("Range", zero, total, one), g.ints(0))
        causal = g.node("LessOrEqual", keys, g.node("Unsqueeze", queries, g.ints(1)))
        real = g.node("Cast", "attention_mask", to=TensorProto.BOOL)
        allowed = g.node("And", g.node("Unsqueeze", real, g.ints(1, 2)), causal)
        nothing, least = g.constant(0.0, np.float32), g.constant(MASKED, np.float32)
        return g.node("Where", allowed, nothing, least)

    def _layer(self, x: str, layer: int, shared: Positions) -> str:
        g, eps, prefix = self.graph, self.shape.norm_eps, f"model.layers.{layer}"
        normed = g.norm(x, f"{prefix}.input_layernorm.weight", eps)
        x = g.node("Add", x, self._attention(normed, layer, shared))
        normed = g.norm(x, f"{prefix}.post_attention_layernorm.weight", eps)
        gate = g.linear(normed, f"{prefix}.mlp.gate_proj.weight")
        gated = g.node("Mul", gate, g.node("Sigmoid", gate))
        inner = g.node("Mul", gated, g.linear(normed, f"{prefix}.mlp.up_proj.weight"))
        return g.node("Add", x, g.linear(inner, f"{prefix}.mlp.down_proj.weight"))

    def _attention(self, x: str, layer: int, shared: Positions) -> str:
        g, shape = self.graph, self.shape
        prefix = f"model.layers.{layer}.self_attn"
        q = self._rotated(g.linear(x, f"{prefix}.q_proj.weight"), shape.heads, shared)
        k = self._rotated(g.linear(x, f"{prefix}.k_proj.weight"), shape.kv_heads, shared)
        v = g.linear(x, f"{prefix}.v_proj.weight")
        past = [f"past_key_values.{layer}.{part}" for part in ("key", "value")]
        present = [f"present.{layer}.{part}" for part in ("key", "value")]
        mixed = f"mixed_{layer}"
        g.nodes.append(
            helper.make_node(
                "Attention",
                [q, k, v, shared.bias, *past],
                [mixed, *present],
                q_num_heads=shape.heads,
                kv_num_heads=shape.kv_heads,
            )
        )
        return g.linear(mixed, f"{prefix}.o_proj.weight")

    def _rotated(self, x: str, heads: int, shared: Positions) -> str:
        table = (shared.cos, shared.sin, "position_ids")
        return self.graph.node("RotaryEmbedding", x, *table, num_heads=heads)

    def _inputs(self) -> list[onnx.ValueInfoProto]:
        whole = TensorProto.INT64
        named: tuple[tuple[str, list[str | int | None]], ...] = (
            ("input_ids", ["batch", "sequence"]),
            ("attention_mask", ["batch", "total"]),
            ("position_ids", ["batch", "sequence"]),
        )
        inputs = [helper.make_tensor_value_info(name, whole, dims) for name, dims in named]
        return inputs + self._cache("past_key_values", "past")

    def _outputs(self) -> list[onnx.ValueInfoProto]:
        dims: list[str | int | None] = ["batch", "sequence", self.shape.vocab]
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, dims)
        return [logits, *self._cache("present", "total")]

    def _cache(self, name: str, length: str) -> list[onnx.ValueInfoProto]:
        dims: list[str | int | None] = ["batch", self.shape.kv_heads, length, self.shape.head_width]
        return [
            helper.make_tensor_value_info(f"{name}.{layer}.{part}", TensorProto.FLOAT, dims)
            for layer in range(self.shape.layers)
            for part in ("key", "value")
        ]


def write_graph(path: Path, shape: Shape, spans: Mapping[str, Span]) -> None:
    model = DecoderGraph(shape, spans).build()
    path.write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(path))


def write_configs(folder: Path, shape: Shape, ids: Mapping[str, int]) -> None:
    """config.json, generation_config.json and tokenizer_config.json, as public tools read them."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": ids[START],
        "eos_token_id": ids[END],
        "head_dim": shape.head_width,
        "hidden_act": "silu",
        "hidden_size": shape.width,
        "initializer_range": 0.02,
        "intermediate_size": shape.inner,
        "max_position_embeddings": shape.context,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "pad_token_id": ids[END],
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
        "use_cache": True,
        "vocab_size": shape.vocab,
    }
    generation = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    tokenizer = {
        "add_bos_token": False,
        "added_tokens_decoder": {str(ids[token]): _special(token) for token in SPECIAL},
        "bos_token": START,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": END,
        "model_max_length": shape.context,
        "pad_token": END,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", generation)
    _write_json(folder / "tokenizer_config.json", tokenizer)


def _special(token: str) -> dict[str, Any]:
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {"content": token, "special": True, **flags}


def _write_json(path: Path, document: Mapping[str, Any] | Sequence[Any]) -> None:
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")


__all__ = ["ASSISTANT", "GRAPH", "WEIGHTS", "write_configs", "write_graph", "write_weights"]
