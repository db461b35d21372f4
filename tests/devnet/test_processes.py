"""Processes of a devnet: none survives it, whether it ends in order or by kill -9."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from devnet import homes, processes
from devnet.leash import leashed
from devnet.network import MARKER, _folder
from devnet.processes import DevnetError, NodeProcess

PARENT = """
import subprocess, sys
from devnet.leash import leashed
child = subprocess.Popen(leashed([sys.executable, "-c", "import time; time.sleep(600)"]))
print(child.pid, flush=True)
sys.stdin.read()
"""
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('x'); time.sleep(600)"


def node(tmp_path: Path, code: str) -> NodeProcess:
    return NodeProcess([sys.executable, "-uc", code], home=tmp_path, log=tmp_path / "log")


def wait_for_output(process: NodeProcess) -> None:
    deadline_s = time.monotonic() + 30
    while not process.log.read_bytes():
        assert time.monotonic() < deadline_s
        assert process.running
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether it runs; a zombie that nobody has reaped yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def test_leash_ends_the_child_of_a_killed_parent() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_alive(child)
        parent.kill()
    deadline_s = time.monotonic() + 5
    while is_alive(child):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_leash_keeps_exit_code_and_arguments() -> None:
    done = subprocess.run(
        leashed([sys.executable, "-c", "import sys; print(sys.argv[1]); sys.exit(7)", "a b"]),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (7, "a b\n")


def test_stubborn_process_is_killed_in_time(tmp_path: Path) -> None:
    process = node(tmp_path, STUBBORN)
    wait_for_output(process)
    started_s = time.monotonic()
    processes.stop_all([process], timeout_s=0.2)
    assert process.wait(0) == -signal.SIGKILL
    assert time.monotonic() - started_s < 4


def test_process_that_ends_shows_its_log(tmp_path: Path) -> None:
    process = node(tmp_path, "print('no port'); raise SystemExit(3)")
    with pytest.raises(DevnetError, match=r"ended with 3:\nno port"):
        process.wait_ready(time.monotonic() + 30)


def test_process_that_never_answers(tmp_path: Path) -> None:
    process = node(tmp_path, STUBBORN)
    wait_for_output(process)
    with pytest.raises(DevnetError, match="did not answer in time"):
        process.wait_ready(time.monotonic() + 0.2)
    processes.stop_all([process], timeout_s=0)


def test_settings_of_the_shell_do_not_reach_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUNODE_WORKER_PRICE_OUT", "1")
    process = node(tmp_path, "import os; print('GPUNODE_WORKER_PRICE_OUT' in os.environ)")
    assert process.wait(30) == 0
    assert process.log.read_text() == "False\n"


def test_free_port_is_below_the_kernels() -> None:
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert 1024 < homes.free_port() < low


def test_folder_of_an_earlier_devnet_is_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    with _folder(folder):
        (folder / "old").touch()
    with _folder(folder):
        assert [path.name for path in folder.iterdir()] == [MARKER]


def test_folder_of_a_running_devnet_is_left_alone(tmp_path: Path) -> None:
    with _folder(tmp_path / "net"):
        second = _folder(tmp_path / "net")
        with pytest.raises(DevnetError, match="another devnet is running"), second:
            pass
        assert (tmp_path / "net" / MARKER).exists()


def test_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    with pytest.raises(DevnetError, match="no devnet's folder"), _folder(tmp_path):
        pass
    assert (tmp_path / "precious").exists()


def test_temporary_folder_goes() -> None:
    with _folder(None) as folder:
        assert folder.is_dir()
    assert not folder.exists()
