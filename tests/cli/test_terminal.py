"""What only happens on a terminal: questions, and passwords that are not shown."""

import os
import pty
import sys
from pathlib import Path

import pytest

from node.adapters import keystore


def converse(arguments: list[str], answers: list[tuple[bytes, bytes]]) -> tuple[int, bytes]:
    """Run a command on a terminal; when it shows a question, type the answer."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-m", "node", *arguments])
    shown = b""
    left = list(answers)
    seen = 0
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # how Linux says that the other end is closed
            break
        shown += piece
        if left and left[0][0] in shown[seen:]:
            seen = len(shown)
            os.write(terminal, left.pop(0)[1] + b"\n")
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown


def test_init_asks_twice_and_shows_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    code, shown = converse(
        ["init", "--home", str(home), "--light"],
        [(b"New password", b"s3cret"), (b"Once more", b"s3cret")],
    )
    assert code == 0, shown
    assert b"s3cret" not in shown
    assert len(keystore.unlock(home / "keystore.json", b"s3cret")) == 32


@pytest.mark.parametrize(
    ("second", "says"), [(b"other", b"the two passwords differ"), (b"", b"differ")]
)
def test_init_wants_the_same_twice(tmp_path: Path, second: bytes, says: bytes) -> None:
    home = tmp_path / "home"
    code, shown = converse(
        ["init", "--home", str(home), "--light"],
        [(b"New password", b"s3cret"), (b"Once more", second)],
    )
    assert code == 2
    assert says in shown
    assert not home.exists()


def test_init_interrupted(tmp_path: Path) -> None:
    home = tmp_path / "home"
    code, shown = converse(["init", "--home", str(home)], [(b"New password", b"\x03")])
    assert code == 130, shown
    assert not home.exists()


def test_submit_without_a_prompt_explains(tmp_path: Path) -> None:
    home = tmp_path / "home"
    converse(["init", "--home", str(home), "--light", "--generate-password"], [])
    code, shown = converse(["submit", "--home", str(home)], [])
    assert code == 2
    assert b"no prompt: give one, or - for stdin" in shown
