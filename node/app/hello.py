"""What a node says first on a session."""

from collections.abc import Callable

from node import __version__
from node.protocol import limits
from node.protocol.fields import Address
from node.protocol.frames import Hello
from node.protocol.signing import Domain


def hello_of(domain: Domain, *, payer: Address, payee: Address, sells: bool) -> Callable[[], Hello]:
    """What this node says first on a session."""

    def hello() -> Hello:
        return Hello(
            version_min=1,
            version_max=1,
            chain_id=domain.chain_id,
            escrow=domain.escrow,
            payer=payer,
            payee=payee,
            sells=sells,
            job_window=limits.JOB_WINDOW_BYTES,
            agent=f"gpunode/{__version__}",
        )

    return hello
