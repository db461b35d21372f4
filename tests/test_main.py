"""The command `node` in an active environment: ours where it is ours, Node.js everywhere else."""

import os
import pty
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
ACTIVE = os.pathsep.join([str(BIN), os.environ["PATH"]])


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    assert (BIN / "node").is_file(), "the console script is not installed; run scripts/setup"


def run(
    *command: str | Path, cwd: Path | None = None, stdin: str = "", **env: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(part) for part in command],
        env={**os.environ, "PATH": ACTIVE, **env},
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )


def script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("tool", ["npm", "npx"])
def test_npm_and_npx_work(tool: str) -> None:
    done = run(tool, "--version")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(".")[0].isdigit()


def test_code_on_the_command_line() -> None:
    assert run("node", "-e", "console.log(6*7)").stdout == "42\n"


def test_version_is_node_js() -> None:
    assert run("node", "--version").stdout.startswith("v")
    assert run("node", "version").stdout.startswith("gpunode ")


def test_shebang_script(tmp_path: Path) -> None:
    path = script(tmp_path / "tool", "#!/usr/bin/env node\nconsole.log(process.argv[2], 6 * 7)\n")
    assert run(path, "serve").stdout == "serve 42\n"


def test_script_on_stdin() -> None:
    assert run("node", stdin="console.log(6*7)").stdout == "42\n"
    assert run("node", "-", "x", stdin="console.log(process.argv[2])").stdout == "x\n"


@pytest.mark.parametrize("argument", ["app.js", "./app.js", "app", "folder", "."])
def test_scripts_as_node_js_resolves_them(tmp_path: Path, argument: str) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("app.js", "folder/index.js", "index.js"):
        (tmp_path / name).write_text("console.log(6*7)")
    assert run("node", argument, cwd=tmp_path).stdout == "42\n"


def test_a_verb_wins_over_a_file_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "version").write_text("console.log(6*7)")
    assert run("node", "version", cwd=tmp_path).stdout.startswith("gpunode ")
    assert run("node", "./version", cwd=tmp_path).stdout == "42\n"


def test_missing_script_is_node_js_to_report(tmp_path: Path) -> None:
    done = run("node", "none.js", cwd=tmp_path)
    assert done.returncode == 1
    assert "Cannot find module" in done.stderr


def test_unknown_word_gets_a_suggestion(tmp_path: Path) -> None:
    done = run("node", "serv", cwd=tmp_path)
    assert done.returncode == 2
    assert "Did you mean 'serve'?" in done.stderr


def test_exit_code_and_signal_pass_through() -> None:
    assert run("node", "-e", "process.exit(7)").returncode == 7
    killed = run("node", "-e", "process.kill(process.pid, 'SIGTERM'); setTimeout(() => {}, 9e4)")
    assert killed.returncode == -signal.SIGTERM


def test_ignored_signals_of_python_are_restored() -> None:
    shell = run(
        "node", "-e", "console.log(require('fs').readFileSync('/proc/self/status', 'utf8'))"
    )
    direct = run(
        real_node(), "-e", "console.log(require('fs').readFileSync('/proc/self/status', 'utf8'))"
    )
    ignored = [
        next(line for line in done.stdout.splitlines() if line.startswith("SigIgn"))
        for done in (shell, direct)
    ]
    assert ignored[0] == ignored[1]


def real_node() -> str:
    from node.app.handover import find_nodejs

    found = find_nodejs()
    assert found is not None
    return found


def test_npm_script_that_calls_node(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"scripts": {"t": "node -e \\"console.log(6*7)\\""}}')
    done = run("npm", "run", "--silent", "t", cwd=tmp_path)
    assert done.stdout == "42\n", done.stderr


def test_a_second_environment_before_node_js_is_passed_over(tmp_path: Path) -> None:
    script(tmp_path / "node", (BIN / "node").read_text())
    done = run("node", "-e", "console.log(6*7)", PATH=f"{tmp_path}{os.pathsep}{ACTIVE}")
    assert done.stdout == "42\n"


def test_no_node_js_at_all(tmp_path: Path) -> None:
    done = run(BIN / "node", "-e", "1", PATH=str(BIN))
    assert done.returncode == 127
    assert "no Node.js on PATH" in done.stderr


def test_a_wrapper_that_leads_back_ends(tmp_path: Path) -> None:
    script(tmp_path / "node", f'#!/bin/sh\nexec {BIN}/node "$@"\n')
    done = run(BIN / "node", "-e", "1", PATH=f"{tmp_path}:/nowhere")
    assert done.returncode == 127
    assert "leads back" in done.stderr


def test_bare_on_a_terminal_is_ours() -> None:
    terminal, inside = pty.openpty()
    try:
        done = subprocess.run(
            [BIN / "node"], stdin=inside, capture_output=True, text=True, timeout=60
        )
    finally:
        os.close(inside)
        os.close(terminal)
    assert "peer-to-peer market" in done.stdout + done.stderr


@pytest.mark.parametrize("command", [["gpunode"], [sys.executable, "-m", "node"]])
def test_aliases_are_always_ours(command: list[str]) -> None:
    assert run(*command, "version").stdout.startswith("gpunode ")
    assert run(*command, "--version").returncode == 2


@pytest.mark.parametrize("arguments", [["--help"], ["help"], ["-h"]])
def test_help_is_ours(arguments: list[str]) -> None:
    assert "peer-to-peer market" in run("node", *arguments).stdout


def test_help_of_a_verb() -> None:
    assert run("node", "help", "submit").stdout == run("node", "submit", "--help").stdout


def test_help_is_quick() -> None:
    """At most 150 ms.  Of the processor's time, so that a busy machine does not decide: the
    command waits for nothing else."""
    took = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run("node", "--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert min(took) < 0.150, took


def test_the_log_takes_no_drawing_library_along() -> None:
    """Somebody waits for what a job imports; whoever draws tables still can."""
    code = (
        "import sys; from node.app import logs; logs.load(); import structlog, node.app.submit;"
        "assert not [name for name in sys.modules if name.partition('.')[0] == 'pygments'];"
        "logs.configure('warning'); from rich.console import Console; Console().print('drawn')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "drawn\n"), done.stderr


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['node', '--help']\n"
        "from node.cli.main import run; run('node')\n"
        "heavy = {'web3', 'libp2p', 'numpy', 'onnxruntime', 'rich', 'trio', 'structlog',"
        " 'cryptography', 'tokenizers', 'coincurve'}\n"
        "sys.exit(', '.join(heavy & sys.modules.keys()) or 0)"
    )
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr


def test_handing_over_imports_almost_nothing() -> None:
    done = run(
        sys.executable, "-c", "import sys; before = set(sys.modules); import node.__main__;"
        "print(sorted(set(sys.modules) - before))",
    )  # fmt: skip
    expected = ["node", "node.__main__", "node.app", "node.app.handover", "node.cli"]
    assert done.stdout == f"{[*expected, 'node.cli.verbs']}\n"


def test_console_script_is_executable() -> None:
    assert (BIN / "node").stat().st_mode & stat.S_IXUSR
    assert (BIN / "gpunode").stat().st_mode & stat.S_IXUSR
