"""The shipped decoder in other shapes that exporters write."""

from pathlib import Path

import onnx
from onnx import TensorProto, helper

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
