"""Loads the parts of py-libp2p that a node runs, without those that it does not.

`import libp2p` also brings QUIC, WebSockets, TLS with ACME, mDNS, UPnP, DNS over everything and
three HTTP clients: half of its time, which every `node submit` would wait for.  So its packages are
entered without running their `__init__`, and the few names of unused parts that the used ones
mention (in annotations and `isinstance`) are stand-ins that nothing makes instances of.

Who has imported the library before gets the library as it is: everything works then, too.
"""

import importlib
import importlib.util
import socket
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiaddr import Multiaddr

PACKAGES: dict[str, dict[str, str]] = {
    "libp2p": {},
    "libp2p.transport": {},
    "libp2p.transport.quic": {},
    "libp2p.network": {},
    "libp2p.security": {},
    "libp2p.rcmgr": {
        "Direction": "libp2p.rcmgr.metrics",
        "ResourceManager": "libp2p.rcmgr.manager",
    },
}
"""Packages entered bare, and the names that others take from them, by the module they are from."""
STAND_INS: dict[str, tuple[str, ...]] = {
    "libp2p.transport.quic.stream": ("QUICStream",),
    "libp2p.transport.quic.config": ("QUICTransportConfig",),
    "libp2p.rcmgr.manager": ("ResourceManager",),
    # Counted for nobody; the module brings a client of Prometheus, with an HTTP server in it.
    "libp2p.metrics.swarm": ("SwarmEvent",),
}
"""Names of parts that a TCP node has no instances of, or of which nobody looks at them."""
RESOLVERS = "multiaddr.resolvers"


class SystemResolver:
    """Resolves host names as every other program on the machine does.

    In place of `multiaddr`'s resolver, whose import alone takes a tenth of a second.
    """

    async def resolve(self, addr: "Multiaddr") -> list["Multiaddr"]:
        """The addresses behind ``/dns…/NAME/tcp/PORT…``, in the system's order."""
        import trio
        from multiaddr import Multiaddr

        head, *tail = addr.split()
        kind = head.protocols()[0].name
        family = {"dns4": socket.AF_INET, "dns6": socket.AF_INET6}.get(kind, socket.AF_UNSPEC)
        name = str(head.value_for_protocol(kind))
        found = await trio.socket.getaddrinfo(name, None, family=family, type=socket.SOCK_STREAM)
        rest = "".join(str(part) for part in tail)
        texts = [
            f"/{'ip6' if family is socket.AF_INET6 else 'ip4'}/{sockaddr[0]}{rest}"
            for family, _, _, _, sockaddr in found
        ]
        return [Multiaddr(text) for text in dict.fromkeys(texts)]


class _Bare(ModuleType):
    """A package whose `__init__` has not run."""

    _sources: dict[str, str]

    def __getattr__(self, name: str) -> Any:
        source = self.__dict__.get("_sources", {}).get(name)
        if source is None:
            raise AttributeError(f"{self.__name__} was entered bare: it has no {name}")
        return getattr(importlib.import_module(source), name)


def load() -> None:
    """Prepare `sys.modules`; to be called before anything imports the library.  Idempotent."""
    if "libp2p" in sys.modules:
        return
    for name, sources in PACKAGES.items():
        _enter_bare(name, sources)
    for name, classes in STAND_INS.items():
        _put(name, _module(name, {each: type(each, (), {}) for each in classes}))
    if RESOLVERS not in sys.modules:
        _put(RESOLVERS, _module(RESOLVERS, {"DNSResolver": SystemResolver}))


def _enter_bare(name: str, sources: dict[str, str]) -> None:
    spec = importlib.util.find_spec(name)
    assert spec is not None, name
    package = _Bare(name)
    package.__spec__, package.__file__ = spec, spec.origin
    package.__path__ = spec.submodule_search_locations or []
    package._sources = sources
    _put(name, package)


def _module(name: str, names: dict[str, type]) -> ModuleType:
    module = ModuleType(name, "A stand-in (node.adapters.p2p.lean).")
    module.__dict__.update(names)
    return module


def _put(name: str, module: ModuleType) -> None:
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], child, module)
