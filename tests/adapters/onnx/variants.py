"""The shipped decoder in other shapes that exporters write."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from node.adapters import model_folder

SHIPPED = model_folder.shipped()


def _graph() -> onnx.ModelProto:
    model = onnx.load(str(SHIPPED / "model.onnx"), load_external_data=False)
    onnx.load_external_data_for_model(model, str(SHIPPED))
    return model


def _save(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, str(path))
    return path


def _input(model: onnx.ModelProto, name: str) -> onnx.ValueInfoProto:
    return next(node for node in model.graph.input if node.name == name)


def without_positions(path: Path) -> Path:
    """Positions follow from the length of the cache, as in older exports."""
    model = _graph()
    model.graph.input.remove(_input(model, "position_ids"))
    constants = [
        helper.make_tensor("at_one", TensorProto.INT64, [], [1]),
        helper.make_tensor("axis_zero", TensorProto.INT64, [1], [0]),
        helper.make_tensor("step_one", TensorProto.INT64, [], [1]),
    ]
    nodes = [
        helper.make_node("Shape", ["attention_mask"], ["own_mask_shape"]),
        helper.make_node("Gather", ["own_mask_shape", "at_one"], ["own_total"], axis=0),
        helper.make_node("Shape", ["input_ids"], ["own_ids_shape"]),
        helper.make_node("Gather", ["own_ids_shape", "at_one"], ["own_fresh"], axis=0),
        helper.make_node("Sub", ["own_total", "own_fresh"], ["own_past"]),
        helper.make_node("Range", ["own_past", "own_total", "step_one"], ["own_range"]),
        helper.make_node("Unsqueeze", ["own_range", "axis_zero"], ["own_row"]),
        helper.make_node("Expand", ["own_row", "own_ids_shape"], ["position_ids"]),
    ]
    model.graph.initializer.extend(constants)
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    return _save(model, path)


def half_precision_cache(path: Path) -> Path:
    """Keys and values travel as float16, and the ids as int32."""
    model = _graph()
    _input(model, "input_ids").type.tensor_type.elem_type = TensorProto.INT32
    past = [info for info in model.graph.input if info.name.startswith("past_key_values")]
    present = [info for info in model.graph.output if info.name != "logits"]
    names = {info.name for info in (*past, *present)}
    for node in model.graph.node:
        node.input[:] = [f"{name}_wide" if name in names else name for name in node.input]
        node.output[:] = [f"{name}_wide" if name in names else name for name in node.output]
    for info in (*past, *present):
        info.type.tensor_type.elem_type = TensorProto.FLOAT16
    for info in past:
        wide = f"{info.name}_wide"
        cast = helper.make_node("Cast", [info.name], [wide], to=TensorProto.FLOAT)
        model.graph.node.insert(0, cast)
    for info in present:
        wide = f"{info.name}_wide"
        cast = helper.make_node("Cast", [wide], [info.name], to=TensorProto.FLOAT16)
        model.graph.node.append(cast)
    return _save(model, path)


def self_contained(path: Path) -> Path:
    """The same graph with the weights in its own file."""
    return _save(_graph(), path)


def _masked(model: onnx.ModelProto) -> str:
    """The name of the attention mask, which all layers share."""
    return str(next(node for node in model.graph.node if node.op_type == "Attention").input[3])


def _with_another_mask(path: Path, kind: str, constant: TensorProto) -> Path:
    model = _graph()
    mask = _masked(model)
    at, node = next((n, node) for n, node in enumerate(model.graph.node) if mask in node.output)
    node.output[:] = ["plain_mask"]
    model.graph.initializer.append(constant)
    model.graph.node.insert(at + 1, helper.make_node(kind, ["plain_mask", constant.name], [mask]))
    return _save(model, path)


def with_a_score_added(path: Path) -> Path:
    """Something is added to every score that is seen."""
    return _with_another_mask(path, "Add", helper.make_tensor("some", TensorProto.FLOAT, [], [0.5]))


def with_a_soft_cap(path: Path) -> Path:
    """Scores are squeezed, as some models do."""
    model = _graph()
    for node in model.graph.node:
        if node.op_type == "Attention":
            node.attribute.append(helper.make_attribute("softcap", 30.0))
    return _save(model, path)


def with_a_window(path: Path) -> Path:
    """A position sees a hundred tokens back and no further."""
    model = _graph()
    at, node = next(
        (n, node) for n, node in enumerate(model.graph.node) if node.op_type == "LessOrEqual"
    )
    columns, positions = node.input
    seen = str(node.output[0])
    node.output[:] = ["not_later"]
    model.graph.initializer.append(helper.make_tensor("window", TensorProto.INT64, [], [100]))
    added = [
        helper.make_node("Sub", [positions, "window"], ["window_starts"]),
        helper.make_node("Greater", [columns, "window_starts"], ["not_long_ago"]),
        helper.make_node("And", ["not_later", "not_long_ago"], [seen]),
    ]
    for one in reversed(added):
        model.graph.node.insert(at + 1, one)
    return _save(model, path)


def plain_attention(path: Path, *, heads: int) -> Path:
    """One layer of random weights, whose attention is products, a mask and a softmax."""
    width, vocab, rng = 64, 256, np.random.default_rng(0)
    whole = heads * width

    def drawn(name: str, *shape: int) -> onnx.TensorProto:
        weights = rng.standard_normal(shape) / np.sqrt(shape[0])
        return numpy_helper.from_array(weights.astype(np.float32), name)

    def constant(name: str, value: Any, dtype: type[np.generic] = np.int64) -> onnx.TensorProto:
        return numpy_helper.from_array(np.array(value, dtype=dtype), name)

    def node(kind: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(kind, inputs.split(), [output], **attributes)

    weights = [drawn("embed", vocab, whole), drawn("w_out", whole, whole)]
    weights += [drawn(f"w_{name}", whole, whole) for name in "qkv"] + [drawn("head", whole, vocab)]
    weights += [
        constant("split", [0, 0, heads, width]), constant("flat", [0, 0, whole]),
        constant("scale", 1 / 8, np.float32), constant("hidden", -1e9, np.float32),
        constant("seen", 0, np.float32), constant("zero", 0), constant("one", 1),
        constant("axis_zero", [0]), constant("axis_one", [1]),
    ]  # fmt: skip
    nodes = [node("Gather", "embed input_ids", "x")]
    for name in "qkv":
        nodes += [
            node("MatMul", f"x w_{name}", f"{name}0"),
            node("Reshape", f"{name}0 split", f"{name}1"),
            node("Transpose", f"{name}1", name, perm=[0, 2, 1, 3]),
        ]
    nodes += [
        node("Concat", "past_key_values.0.key k", "present.0.key", axis=2),
        node("Concat", "past_key_values.0.value v", "present.0.value", axis=2),
        node("Transpose", "present.0.key", "turned", perm=[0, 1, 3, 2]),
        node("MatMul", "q turned", "products"),
        node("Mul", "products scale", "scores"),
        node("Shape", "attention_mask", "mask_shape"),
        node("Gather", "mask_shape one", "total"),
        node("Shape", "input_ids", "ids_shape"),
        node("Gather", "ids_shape one", "fresh"),
        node("Sub", "total fresh", "past"),
        node("Range", "zero total one", "columns0"),
        node("Range", "past total one", "rows0"),
        node("Unsqueeze", "columns0 axis_zero", "columns"),
        node("Unsqueeze", "rows0 axis_one", "rows"),
        node("Greater", "columns rows", "later"),
        node("Where", "later hidden seen", "mask"),
        node("Add", "scores mask", "masked"),
        node("Softmax", "masked", "shares", axis=-1),
        node("MatMul", "shares present.0.value", "o0"),
        node("Transpose", "o0", "o1", perm=[0, 2, 1, 3]),
        node("Reshape", "o1 flat", "o2"),
        node("MatMul", "o2 w_out", "o3"),
        node("Add", "x o3", "y"),
        node("MatMul", "y head", "logits"),
    ]

    def cache(name: str, length: str) -> list[onnx.ValueInfoProto]:
        shape: list[str | int | None] = ["rows", heads, length, width]
        return [
            helper.make_tensor_value_info(f"{name}.0.{kind}", TensorProto.FLOAT, shape)
            for kind in ("key", "value")
        ]

    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["rows", "fresh"])
    mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["rows", "total"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", "fresh", vocab])
    graph = helper.make_graph(
        nodes, "plain", [ids, mask, *cache("past_key_values", "past")],
        [logits, *cache("present", "total")], weights,
    )  # fmt: skip
    opset = helper.make_opsetid("", 17)
    return _save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)


def with_unknown_input(path: Path) -> Path:
    """A switch that a merged export has."""
    model = _graph()
    model.graph.input.append(
        helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1])
    )
    return _save(model, path)


def without_cache(path: Path) -> Path:
    """An export for plain forward passes."""
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
    mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "total"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "sequence"])
    nodes = [
        helper.make_node("Add", ["input_ids", "attention_mask"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["logits"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(nodes, "plain", [ids, mask], [logits])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return _save(model, path)
