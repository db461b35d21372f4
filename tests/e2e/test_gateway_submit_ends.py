"""A gateway that ends while it does a job for `node submit`."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from node.errors import ExitCode
from tests.e2e.conftest import Devnet
from tests.e2e.gateway_process import Gateway, gateway_up
from tests.e2e.test_gateway_submit import LONG, PROMPT, wait_idle

pytestmark = [pytest.mark.devnet, pytest.mark.timeout(600)]


@contextmanager
def begun(devnet: Devnet, log: Path) -> Iterator[tuple[Gateway, "subprocess.Popen[str]"]]:
    """A gateway, and a job that was handed to it and has begun."""
    with gateway_up(devnet.ready["client_home"], log) as gateway:
        process = devnet.start("submit", *LONG)
        assert process.stdout is not None
        assert process.stdout.read(5), "text comes as it is made"
        yield gateway, process


def receipts(devnet: Devnet) -> int:
    return len(devnet.node("receipts", "list", "--last", "1000", "--json").json)


def test_a_gateway_that_is_stopped_ends_the_job_in_order(devnet: Devnet, tmp_path: Path) -> None:
    with begun(devnet, tmp_path / "log") as (gateway, process):
        gateway.process.terminate()
        _, err = process.communicate(timeout=30)
        assert process.returncode == ExitCode.TRY_AGAIN
        assert err.splitlines()[-1] == "error: the gateway was stopped"
        assert gateway.process.wait(30) == 0
    file = err.split("receipt: ")[1].splitlines()[0]
    assert devnet.node("receipts", "verify", file).code == 0
    wait_idle(devnet)


def test_a_gateway_that_is_killed_is_said(devnet: Devnet, tmp_path: Path) -> None:
    before = receipts(devnet)
    with begun(devnet, tmp_path / "log") as (gateway, process):
        gateway.process.kill()
        _, err = process.communicate(timeout=30)
        gateway.process.wait()
        gateway.process.returncode = 0  # as gateway_up wants it: this end was ours
    assert process.returncode == ExitCode.TRY_AGAIN
    assert "the gateway that had the job ended before it" in err
    # Nothing was bought a second time, and the home works on alone.
    assert receipts(devnet) <= before + 1
    assert devnet.node("submit", PROMPT, "--max-tokens", "3").code == 0
