"""Whether an attention mask hides exactly what comes later, and padding.

A graph computes its mask from shapes and from `attention_mask`, each exporter in its own way; some
models see only a window, and some add more to it.  So the part that makes the mask is run by
itself, on a few shapes, and what comes out is compared with what it should be.
"""

from typing import Any, Final

import numpy as np

from node.adapters.onnx.decoder import Array, Ints

PASTS: Final = (0, 3, 40)
"""Tokens before the fresh ones.  The whole context is tried too: it is beyond any window."""
FRESH: Final = 3
PADS: Final = np.array([0, 2], dtype=np.int64)
"""Columns of padding in each of two rows, where there are as many before the fresh ones."""
HIDDEN_MAX: Final = -1e4
"""A score that is at least so far down counts for nothing."""


class NotCausal(Exception):
    """The mask is another one, or can't be computed by itself."""


def check(model: Any, mask: str, *, context: int) -> None:
    """See whether a tensor of a model is the plain causal mask.

    Args:
        model: The model, as `onnx` loads it.
        mask: The tensor's name.
        context: Most tokens that a row will have.

    Raises:
        NotCausal: It is not, or it depends on more than the ids' shape and the caller's mask.
    """
    part = _part(model, mask)
    try:
        session = _session(part)
        for past in (*PASTS, max(0, context - FRESH)):
            found = session.run([mask], _feeds(session, past))[0]
            _compare(found, past)
    except NotCausal:
        raise
    except Exception as error:  # ONNX Runtime's exceptions share no base of their own
        raise NotCausal("its mask does not stand by itself") from error


def _part(model: Any, mask: str) -> Any:
    """A model of the nodes that make the mask, and nothing else."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    wanted, seen = [mask], set[str]()
    nodes: list[Any] = []
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        if (node := made_by.get(name)) is not None and id(node) not in {id(n) for n in nodes}:
            nodes.append(node)
            wanted.extend(filter(None, node.input))
    part = type(model)(ir_version=model.ir_version, functions=model.functions)
    part.opset_import.extend(model.opset_import)
    part.graph.name = "mask"
    ours = set(map(id, nodes))
    part.graph.node.extend(node for node in model.graph.node if id(node) in ours)
    part.graph.initializer.extend(t for t in model.graph.initializer if t.name in seen)
    part.graph.input.extend(info for info in model.graph.input if info.name in seen)
    if any(tensor.external_data for tensor in part.graph.initializer):
        raise NotCausal("its mask depends on weights")
    if {info.name for info in part.graph.input} - {"input_ids", "attention_mask", "position_ids"}:
        raise NotCausal("its mask depends on the cache")
    part.graph.output.add().name = mask
    return part


def _session(part: Any) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what it complains about here is no error
    return onnxruntime.InferenceSession(
        part.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _pads(past: int) -> Ints:
    return np.minimum(PADS, past)


def _feeds(session: Any, past: int) -> dict[str, Array]:
    kinds = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
    columns = np.arange(past + FRESH)[None]
    shown = columns >= _pads(past)[:, None]
    every: dict[str, Array] = {
        "input_ids": np.ones((len(PADS), FRESH)),
        "attention_mask": shown,
        "position_ids": columns[:, past:] - _pads(past)[:, None],
    }
    return {node.name: every[node.name].astype(kinds[node.type]) for node in session.get_inputs()}


def _compare(found: Array, past: int) -> None:
    """
    Raises:
        NotCausal: Something is seen that should not be, or the other way round.
    """
    columns, fresh = np.arange(past + FRESH), np.arange(FRESH)
    later = columns[None, None, :] > (past + fresh)[None, :, None]
    wanted = ~later & (columns >= _pads(past)[:, None])[:, None, :]
    if found.ndim != 4:
        raise NotCausal("not a mask of [rows, heads, positions, columns]")
    seen = found if found.dtype == np.bool_ else found > HIDDEN_MAX
    if not np.all(seen == wanted[:, None]):
        raise NotCausal("not the plain mask")
    if found.dtype != np.bool_ and np.any(found[seen] != 0.0):
        raise NotCausal("it adds to what is seen")
