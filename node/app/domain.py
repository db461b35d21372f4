"""What a home's statements are bound to.  Apart from the rest: reading commands need no network."""

from node.config import Config
from node.errors import ConfigError
from node.protocol.signing import Domain


def domain_of(config: Config) -> Domain:
    """The chain and contract that this node's statements are bound to.

    Raises:
        ConfigError: `chain.escrow` is not set.
    """
    if not config.chain.escrow:
        raise ConfigError("chain.escrow is not set", hint="--set chain.escrow=0x…, or config.toml")
    return Domain(config.chain.chain_id, bytes.fromhex(config.chain.escrow[2:]))
