"""One process owns a home; the others wait in order, or are told who it is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import trio.testing

from node.app.home import Home, HomeBusy, Owner, locate
from node.errors import ConfigError

HOLD = """
import sys
from pathlib import Path
from node.app.home import Home
with Home(Path(sys.argv[1])).own(sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    tmp_path.chmod(0o700)
    return Home(tmp_path)


def hold(home: Home, purpose: str) -> "subprocess.Popen[bytes]":
    """Another process that owns the home until its stdin closes."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(home.path), purpose],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def release(process: "subprocess.Popen[bytes]") -> None:
    process.communicate()


def test_second_owner_is_refused_by_name(home: Home) -> None:
    other = hold(home, "redeem")
    with pytest.raises(HomeBusy, match=rf"`node redeem` \(process {other.pid}\)"), home.own("x"):
        pass
    release(other)
    with home.own("x"):
        pass


def test_killed_owner_leaves_no_lock(home: Home) -> None:
    other = hold(home, "serve")
    other.kill()
    other.communicate()
    with home.own("x"):
        pass


async def test_waits_for_a_short_owner(home: Home) -> None:
    other = hold(home, "submit")
    waited_for: list[Owner] = []

    def on_wait(owner: Owner) -> None:
        waited_for.append(owner)
        release(other)

    async with home.own_within(30, purpose="submit", on_wait=on_wait):
        pass
    assert waited_for == [Owner(pid=other.pid, purpose="submit")]


async def test_gives_up_after_its_deadline_and_leaves_no_lock(home: Home) -> None:
    other = hold(home, "submit")
    with pytest.raises(HomeBusy):
        async with home.own_within(0.05, purpose="submit", on_wait=lambda _: None):
            pass
    release(other)
    async with home.own_within(30, purpose="submit", on_wait=lambda _: None):
        pass


async def test_does_not_wait_for_a_server(home: Home) -> None:
    other = hold(home, "serve")
    with pytest.raises(HomeBusy, match="node serve"):
        async with home.own_within(30, purpose="submit", on_wait=lambda _: None):
            pass
    release(other)


async def test_all_who_wait_get_their_turn(home: Home) -> None:
    inside = 0
    turns = 0

    async def take() -> None:
        nonlocal inside, turns
        async with home.own_within(30, purpose="submit", on_wait=lambda _: None):
            inside += 1
            assert inside == 1
            await trio.testing.wait_all_tasks_blocked()
            inside -= 1
            turns += 1

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(take)
    assert turns == 10


def test_a_child_process_does_not_inherit_the_lock(home: Home) -> None:
    with home.own("serve"):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with home.own("serve"):
        child.communicate(b"\n")


def test_unmade_home(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Home(tmp_path / "none").check()
    assert caught.value.hint == f"node init --home {tmp_path / 'none'}"


def test_open_home_is_refused(home: Home) -> None:
    home.path.chmod(0o750)
    with pytest.raises(ConfigError) as caught:
        home.check()
    assert caught.value.hint == f"chmod 700 {home.path}"


def test_flag_over_environment_over_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert locate("/a", {"GPUNODE_HOME": "/b"}) == Home(Path("/a"))
    assert locate(None, {"GPUNODE_HOME": "/b"}) == Home(Path("/b"))
    assert locate(None, {}) == Home(Path("/data/gpunode"))
    assert locate("rel", {}).path == Path(os.getcwd()) / "rel"
