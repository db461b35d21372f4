"""ONNX Runtime's sessions, set up as the engine wants them."""

import os
import sys
from pathlib import Path
from typing import Any, Final

from node.errors import ConfigError

GPU: Final = "CUDAExecutionProvider"
CPU: Final = "CPUExecutionProvider"
THREADS_MAX: Final = 8
"""Without being told, no more: a process seldom has all of a large machine."""
SHORT_TOKENS: Final = 8
"""Fewer tokens than that are a short run."""
SMALL_BYTES: Final = 64 * 1024 * 1024
"""With weights up to that, a short run is over before other threads have woken up: with two threads
one token of the shipped model takes a third longer than with one."""


class Sessions:
    """One graph, for prompts and for steps.

    How many threads compute changes no bit, as far as each head is computed by one of them.
    """

    def __init__(self, graph: Path, *, threads: int, rewritten: bytes | None = None) -> None:
        """
        Args:
            graph: The ONNX file; its external data lies beside it.
            threads: For one run, on the CPU; 0: one for each core, and `THREADS_MAX` at most.
            rewritten: What to run instead of the file; names the same external data.

        Raises:
            ConfigError: Not a graph that ONNX Runtime can run.
        """
        self.threads = threads = threads or min(_cores(), THREADS_MAX)
        self.long = self._short = open_session(graph, threads=threads, rewritten=rewritten)
        if threads > 1 and not on_gpu() and _bytes_beside(graph) <= SMALL_BYTES:
            self._short = open_session(graph, threads=1, rewritten=rewritten)

    def of(self, tokens: int) -> Any:
        """The session for a run of so many tokens, over all rows."""
        return self._short if tokens < SHORT_TOKENS else self.long


def _cores() -> int:
    """That this process may use, as far as it can tell."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _bytes_beside(graph: Path) -> int:
    return sum(each.stat().st_size for each in graph.parent.iterdir() if each.is_file())


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
