"""`scripts/setup`: says in one line what the system lacks, and does nothing twice."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("bash", "dirname", "head", "grep", "sort", "paste", "printf", "uname")


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A PATH on which nothing is installed but a shell, its tools and apt."""
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / tool).symlink_to(found)
    (tmp_path / "apt-get").touch(mode=0o755)
    return tmp_path


def setup(path: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(shutil.which("bash")), str(ROOT / "scripts" / "setup"), *arguments],
        env={"PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_nothing_installed(bare: Path) -> None:
    done = setup(str(bare))
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line.startswith("  sudo apt-get update && sudo apt-get install -y ")
    assert set(line.partition("-y ")[2].split()) == {
        "gcc", "libc6-dev", "libgmp-dev", "nodejs", "npm", "python3", "python3-dev",
        "python3-venv",
    }  # fmt: skip
    assert done.stdout == ""


def test_names_only_for_machines(bare: Path) -> None:
    done = setup(str(bare), "--missing")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1


def test_our_own_node_is_not_node_js(bare: Path) -> None:
    (bare / "node").write_text("#!/usr/bin/python3\nfrom node.__main__ import main\nmain()\n")
    (bare / "node").chmod(0o755)
    assert "nodejs" in setup(str(bare), "--missing").stdout.split()
