"""What is left out of the library is not needed, and nothing else is missing."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from node.adapters.p2p import lean

ROOT = Path(__file__).parents[3]
UNWANTED = (
    "aioquic", "httpx", "requests", "zeroconf", "trio_websocket", "miniupnpc", "dns",
    "prometheus_client",
)  # fmt: skip


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("module", ["transport", "discovery"])
def test_nothing_heavy_comes_along(module: str) -> None:
    code = (
        f"import sys, json, node.adapters.p2p.{module};"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    loaded = set(json.loads(run(code)))
    assert "libp2p" in loaded
    assert not loaded & set(UNWANTED)


def test_gossip_and_dht_are_loaded_only_when_used() -> None:
    code = "import sys, node.adapters.p2p.transport; print(' '.join(sys.modules))"
    loaded = run(code).split()
    assert not [
        name for name in loaded if name.startswith(("libp2p.kad_dht", "libp2p.pubsub.gossipsub"))
    ]


def test_the_package_alone_loads_nothing() -> None:
    code = "import sys, node.adapters.p2p.identity; print(' '.join(sys.modules))"
    loaded = run(code).split()
    assert "trio" not in loaded
    assert "libp2p.abc" not in loaded


def test_stand_ins_have_every_name_that_is_taken_from_them() -> None:
    """Among the modules that a node loads."""
    code = (
        "import sys, node.adapters.p2p.transport, node.adapters.p2p.discovery as d; d.load_all();"
        "print('\\n'.join(m.__file__ for n, m in sys.modules.items()"
        " if n.startswith('libp2p.') and getattr(m, '__file__', None)"
        " and type(m).__name__ != '_Bare'))"
    )
    sources = [Path(line) for line in run(code).splitlines()]
    assert len(sources) > 80
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in lean.STAND_INS:
                for alias in node.names:
                    assert alias.name in lean.STAND_INS[node.module], (source, alias.name)
            if isinstance(node, ast.ImportFrom) and node.module in lean.PACKAGES and not node.level:
                for alias in node.names:
                    assert is_there(node.module, alias.name), (source, node.module, alias.name)


def is_there(package: str, name: str) -> bool:
    folder = Path(sys.prefix) / "lib"
    [home] = folder.glob("python*/site-packages")
    module = home / package.replace(".", "/") / name
    return name in lean.PACKAGES[package] or module.is_dir() or module.with_suffix(".py").exists()


def test_who_imported_the_library_before_keeps_it() -> None:
    code = (
        "import libp2p; whole = libp2p.new_host;"
        "import node.adapters.p2p.transport, sys;"
        "assert libp2p.new_host is whole;"
        "assert sys.modules['libp2p.transport.quic.stream'].QUICStream.__module__"
        " == 'libp2p.transport.quic.stream';"
        "print('aioquic' in sys.modules)"
    )
    assert run(code) == "True\n"


async def test_names_are_resolved_by_the_system() -> None:
    from multiaddr import Multiaddr

    resolver = lean.SystemResolver()
    found = await resolver.resolve(Multiaddr("/dns4/localhost/tcp/80"))
    assert [str(addr) for addr in found] == ["/ip4/127.0.0.1/tcp/80"]
