"""What NVIDIA's driver says of this machine's GPUs; nothing where there is none."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

MIB: Final = 1024 * 1024
GPUS_MAX: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU.  Figures are 0 where the driver does not tell them."""

    name: str
    uuid_sha256: str
    """Hash of the device's UUID: tells it from others without naming it."""
    memory_mib: int
    memory_free_mib: int
    compute_capability: str
    """Such as `9.0`; empty if unknown."""

    def __str__(self) -> str:
        return f"{self.name}, {self.memory_free_mib} of {self.memory_mib} MiB free"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpus:
    """All of a machine's, or why none can be seen."""

    driver: str = ""
    gpus: tuple[Gpu, ...] = ()
    problem: str = ""
    """Empty where the driver answered."""


def read(library: Any = None) -> Gpus:
    """The GPUs as of now; takes milliseconds, and never raises.

    Args:
        library: nvidia-ml-py's module; None for the installed one.
    """
    if library is None:
        import pynvml

        library = pynvml
    try:
        library.nvmlInit()
    except library.NVMLError as error:
        return Gpus(problem=_text(error))
    try:
        count = min(int(library.nvmlDeviceGetCount()), GPUS_MAX)
        gpus = tuple(_gpu(library, at) for at in range(count))
        return Gpus(driver=_text(library.nvmlSystemGetDriverVersion()), gpus=gpus)
    except library.NVMLError as error:
        return Gpus(problem=_text(error))
    finally:
        _told(library, library.nvmlShutdown)


def _gpu(library: Any, at: int) -> Gpu:
    handle = library.nvmlDeviceGetHandleByIndex(at)
    uuid = _text(_told(library, library.nvmlDeviceGetUUID, handle) or "")
    memory = _told(library, library.nvmlDeviceGetMemoryInfo, handle)
    capability = _told(library, library.nvmlDeviceGetCudaComputeCapability, handle)
    return Gpu(
        name=_text(_told(library, library.nvmlDeviceGetName, handle) or "unknown"),
        uuid_sha256=hashlib.sha256(uuid.encode()).hexdigest() if uuid else "",
        memory_mib=memory.total // MIB if memory else 0,
        memory_free_mib=memory.free // MIB if memory else 0,
        compute_capability=".".join(map(str, capability)) if capability else "",
    )


def _told(library: Any, ask: Callable[..., Any], *args: Any) -> Any:
    """What the driver says; None where it has no answer (a slice of a GPU has not all)."""
    try:
        return ask(*args)
    except library.NVMLError:
        return None


def _text(value: object) -> str:
    return (value.decode(errors="replace") if isinstance(value, bytes) else str(value))[:200]
