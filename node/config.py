"""One frozen configuration, loaded once: flag over environment over file over default.

Every setting stands here with its unit, its default and what it is for.  Addresses and hashes are
hexadecimal text with ``0x``, as in the file.
"""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """How peers reach this node, and how it finds them."""

    listen: tuple[str, ...] = ("/ip4/0.0.0.0/tcp/4321",)
    advertise: tuple[str, ...] = ()
    """Multiaddrs to announce instead of the listening ones (behind a router)."""
    bootstrap: tuple[str, ...] = ()
    gossip: bool = True
    dht: bool = True
    sessions_max: int = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainConfig:
    """Where the money is."""

    rpc_url: str = "http://127.0.0.1:8545"
    chain_id: int = 31337
    escrow: str = ""
    token: str = ""
    finality_blocks: int = 2
    """Blocks on top of one before what it says is believed."""
    native_price_micro: int = 0
    """Micro that one whole native coin (10^18 wei) costs; 0: gas is free to us (a devnet)."""
    fee_max_gwei: int = 200
    redeem_after_s: int = 24 * 3600
    """Vouchers older than this are redeemed even if gas eats more of them than usual."""
    redeem_gas_share_max_bps: int = 500
    """Redeem when gas is at most this share of what it brings."""
    exit_margin_s: int = 600
    """Stop serving a payer this long before its requested exit completes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What computes."""

    kind: str = "onnx"
    model_dir: str = ""
    """Folder of an exported decoder; empty: the small model inside the package."""
    slots: int = 4
    threads: int = 1
    tokens_per_s_max: float = 0.0
    """Upper limit of one job's output rate; 0 for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitConfig:
    """A share of what a model earns, for somebody besides the worker."""

    payee: str
    bps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """What is sold, at which price, and who gets credit.  Prices: micro per million tokens."""

    price_in: int = 100_000
    price_cached: int = 25_000
    price_out: int = 400_000
    payee: str = ""
    """Address that is paid; empty: the node's own."""
    splits: tuple[SplitConfig, ...] = ()
    quantum_micro: int = 2_000
    """Most that may be delivered and not vouchered, per job."""
    prepay_above_micro: int = 0
    """Ask for a voucher with the award when the prompt alone costs more; 0: never."""
    credit_micro: int = 100_000
    """Vouchered, not redeemed and not locked: most that one payer may owe."""
    credit_new_micro: int = 1_000_000
    """The same over all payers without history together."""
    jobs_per_client_max: int = 64
    queue_max: int = 16
    reservation_s: float = 10.0
    """An accepted award whose request does not arrive in this time frees its slot."""
    drain_s: float = 60.0
    region: str = ""
    block: tuple[str, ...] = ()
    """Addresses of peers or payers that are not served."""
    payment_s: float = 10.0
    """How long a job waits for a voucher once its quantum is used up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """How jobs are placed."""

    value_of_time_micro_per_s: int = 50
    bid_window_s: float = 0.4
    """How long bids are waited for once asked."""
    discover_s: float = 5.0
    """How long to look for a first worker."""
    workers_max: int = 24
    """Sessions kept with workers."""
    prepay_max_micro: int = 10_000
    """Most that is paid with an award, before anything came back."""
    job_cap_micro: int = 10_000_000
    """Most that one job may cost."""
    silence_s: float = 10.0
    """No token for this long: the worker is cut off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All of it, for one home directory."""

    home: Path
    network: NetworkConfig = field(default_factory=NetworkConfig)
    chain: ChainConfig = field(default_factory=ChainConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    worker: WorkerConfig = field(default_factory=WorkerConfig)
    client: ClientConfig = field(default_factory=ClientConfig)
