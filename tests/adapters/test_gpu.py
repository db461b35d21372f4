from types import SimpleNamespace
from typing import Any

from node.adapters import gpu


class Driver:
    """nvidia-ml-py as a machine with two GPUs has it, of which one tells little."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        self.open = 0

    def nvmlInit(self) -> None:  # noqa: N802
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def __getattr__(self, name: str) -> Any:
        answers = {
            "nvmlDeviceGetCount": lambda: 2,
            "nvmlSystemGetDriverVersion": lambda: b"570.1",
            "nvmlDeviceGetHandleByIndex": lambda at: at,
            "nvmlDeviceGetName": lambda at: ("Big GPU", b"Slice")[at],
            "nvmlDeviceGetUUID": lambda at: f"GPU-{at}",
            "nvmlDeviceGetMemoryInfo": lambda at: self._memory(at),
            "nvmlDeviceGetCudaComputeCapability": lambda at: (9, 0),
        }
        return answers[name]

    def _memory(self, at: int) -> Any:
        if at == 1:
            raise self.NVMLError("not supported")
        return SimpleNamespace(total=141 * 1024**3, free=100 * 1024**3)


def test_gpus_are_described_as_far_as_the_driver_tells() -> None:
    driver = Driver()
    found = gpu.read(driver)
    assert (found.driver, found.problem, driver.open) == ("570.1", "", 0)
    big, part = found.gpus
    assert str(big) == "Big GPU, 102400 of 144384 MiB free"
    assert big.compute_capability == "9.0"
    assert (part.name, part.memory_mib) == ("Slice", 0)
    assert big.uuid_sha256 != part.uuid_sha256
    assert "GPU-0" not in repr(found)


def test_a_driver_that_fails_is_a_problem_and_no_error() -> None:
    driver = Driver()
    driver.__dict__["nvmlDeviceGetCount"] = lambda: driver._memory(1)
    found = gpu.read(driver)
    assert (found.gpus, found.problem, driver.open) == ((), "not supported", 0)


def test_the_installed_library_answers_on_any_machine() -> None:
    found = gpu.read()
    assert found.gpus or found.problem or found.driver
