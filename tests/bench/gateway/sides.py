"""The servers that are compared: the upstream itself, the LiteLLM proxy before it, and ours."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from devnet.homes import free_port
from devnet.network import Options, up
from node.adapters import model_folder
from tests.bench.figures import Report
from tests.bench.gateway.load import Target
from tests.bench.gateway.upstream import MODEL
from tests.bench.processes import cpu_s, resident_mb

ROOT: Final = Path(__file__).resolve().parents[3]
LITELLM_ENV: Final = ROOT / ".venv-litellm"
LITELLM: Final = "litellm[proxy]==1.106.12"
START_S: Final = 120.0
STOP_S: Final = 20.0
WORKERS: Final = 3
SLOTS: Final = 512
CREDIT_MICRO: Final = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One way to the upstream."""

    name: str
    target: Target
    gateway_pid: int | None = None
    """The process that callers talk to; None: the upstream itself."""
    worker_pids: Sequence[int] = ()

    def gateway_cpu_s(self) -> float:
        return cpu_s(self.gateway_pid) if self.gateway_pid else 0.0

    def workers_cpu_s(self) -> float:
        return sum(map(cpu_s, self.worker_pids))

    def gateway_mb(self) -> float:
        return resident_mb(self.gateway_pid) if self.gateway_pid else 0.0


@contextmanager
def sides(report: Report) -> Iterator[tuple[Side, Side, Side]]:
    """Direct, LiteLLM and ours, all up; they end with the block.

    Raises:
        RuntimeError: One of them does not come up.
    """
    litellm = _litellm_program(report)
    with _upstream() as port, tempfile.TemporaryDirectory(prefix="gpunode-bench-") as temporary:
        report.say("starting the LiteLLM proxy, a chain, three workers and our gateway")
        with _litellm(litellm, port, Path(temporary)) as theirs, _ours(port, Path(temporary)) as us:
            yield Side(name="direct", target=Target(port=port, model=MODEL)), theirs, us


@contextmanager
def _upstream() -> Iterator[int]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.gateway.upstream"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


@contextmanager
def _litellm(program: Path, upstream: int, folder: Path) -> Iterator[Side]:
    port, config = free_port(), folder / "litellm.yaml"
    described = {
        "model_list": [
            {
                "model_name": MODEL,
                "litellm_params": {
                    "model": f"openai/{MODEL}",
                    "api_base": f"http://127.0.0.1:{upstream}/v1",
                    "api_key": "none",
                },
            }
        ],
        "litellm_settings": {"telemetry": False, "num_retries": 0},
    }
    config.write_text(json.dumps(described))  # JSON is YAML
    command = [str(program), "--config", str(config), "--host", "127.0.0.1"]
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }
    with _server(
        [*command, "--port", str(port), "--num_workers", "1"], port, folder, environ
    ) as pid:
        yield Side(name="LiteLLM", target=Target(port=port, model=MODEL), gateway_pid=pid)


@contextmanager
def _ours(upstream: int, folder: Path) -> Iterator[Side]:
    options = Options(
        workers=WORKERS,
        worker_settings={
            "engine.kind": "openai",
            "engine.url": f"http://127.0.0.1:{upstream}",
            "engine.models": (f"{MODEL}={model_folder.shipped() / 'tokenizer.json'}",),
            "engine.slots": SLOTS,
            "engine.tokens_per_s_max": 0.0,
            "worker.jobs_per_client_max": 2 * SLOTS,
            # As for a buyer that the operator knows: no transactions, and no locks, in between.
            "worker.credit_micro": CREDIT_MICRO,
            "worker.credit_new_micro": CREDIT_MICRO,
        },
        client_settings={"gateway.requests_max": 4 * SLOTS},
    )
    port = free_port()
    with up(options) as net:
        command = [sys.executable, "-m", "node", "gateway", "--port", str(port)]
        environ = {**os.environ, "GPUNODE_HOME": str(net.client_home)}
        with _server(command, port, folder, environ) as pid:
            yield Side(
                name="ours",
                target=Target(port=port, model=MODEL),
                gateway_pid=pid,
                worker_pids=tuple(worker.process.pid for worker in net.workers),
            )


@contextmanager
def _server(
    command: Sequence[str], port: int, folder: Path, environ: dict[str, str]
) -> Iterator[int]:
    """A process, once it takes connections; its pid.

    Raises:
        RuntimeError: It ended, or takes none in time; with the end of what it said.
    """
    log = folder / f"{port}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environ, cwd=ROOT
        )
    try:
        deadline_s = time.monotonic() + START_S
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"{command[0]} does not come up: {log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _litellm_program(report: Report) -> Path:
    """LiteLLM's command, in an environment that is made where it is missing."""
    stamp = LITELLM_ENV / "installed"
    if not stamp.is_file() or stamp.read_text() != LITELLM:
        report.say(f"installing {LITELLM} into {LITELLM_ENV.name} (minutes)")
        venv.create(LITELLM_ENV, with_pip=True, clear=True)
        pip = [str(LITELLM_ENV / "bin" / "python"), "-m", "pip", "install", "--quiet", LITELLM]
        subprocess.run(pip, check=True, stdout=sys.stderr)
        stamp.write_text(LITELLM)
    return LITELLM_ENV / "bin" / "litellm"
