"""ONNX Runtime's sessions, set up as the engine wants them."""

from pathlib import Path
from typing import Any, Final

from node.errors import ConfigError

GPU: Final = "CUDAExecutionProvider"
CPU: Final = "CPUExecutionProvider"


def on_gpu() -> bool:
    """Whether sessions will compute on a GPU."""
    import onnxruntime

    return GPU in onnxruntime.get_available_providers()


def open_session(graph: Path, *, threads: int, rewritten: bytes | None = None) -> Any:
    """A session of a graph.

    Args:
        graph: The ONNX file; its external data lies beside it.
        threads: For the computation of one run, on the CPU.
        rewritten: What to run instead of the file; names the same external data.

    Raises:
        ConfigError: Not a graph that ONNX Runtime can run.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Spinning threads would take a core from the node's own loop.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(graph.parent)
    )
    wanted = [GPU, CPU] if on_gpu() else [CPU]
    try:
        return onnxruntime.InferenceSession(rewritten or str(graph), options, providers=wanted)
    except Exception as error:  # its exceptions share no base of their own
        raise ConfigError(f"{graph}: {brief(error)}") from error


def brief(error: Exception) -> str:
    """The first line of one of ONNX Runtime's complaints."""
    return str(error).strip().partition("\n")[0][:300]
