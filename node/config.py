"""One frozen configuration, loaded once: flag over environment over file over default.

Every setting stands here with its unit, its default and what it is for.  Addresses and hashes are
hexadecimal text with ``0x``, as in the file.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Final, get_args, get_origin, get_type_hints

from node.errors import ConfigError

FILE_NAME: Final = "config.toml"
ENV_PREFIX: Final = "GPUNODE_"
ENV_RESERVED: Final = frozenset({
    "GPUNODE_HOME", "GPUNODE_DEBUG", "GPUNODE_LOG", "GPUNODE_PASSWORD_FD", "GPUNODE_HANDOVER_DEPTH",
})  # fmt: skip
"""Variables with our prefix that are no settings."""


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

    kind: str = "auto"
    """`onnx`: in process.  `openai`: a server that speaks OpenAI's protocol, at `url`.  `auto`:
    says which servers it finds on this machine, and sells the model of `model_dir` in process."""
    model_dir: str = ""
    """Folder of an exported decoder; empty: the small model inside the package."""
    url: str = ""
    """Of the server, such as http://127.0.0.1:8000."""
    key_file: str = ""
    """File with the server's API key, mode 0600; relative to the home; empty: it wants none."""
    models: tuple[str, ...] = ()
    """What is sold of the server: NAME=PATH, the server's name of a model, and its tokenizer.json
    or the folder with it (or with a manifest.json)."""
    tier: str = "auto"
    """`text`: sell text even where token ids go in and come out exactly."""
    context: int = 8192
    """Most tokens of prompt and output, where neither the server nor the model's files say it."""
    slots: int = 4
    """Jobs at once, in process or at the server."""
    threads: int = 0
    """For a prompt, or a token of many jobs, in process; 0: one for each core, 8 at most."""
    prefix_mb: int = 256
    """Memory for prompts that were computed before, so that the next turn of a conversation begins
    sooner, in process; in million bytes, over all models; 0: none are kept."""
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
class GatewayConfig:
    """Where OpenAI's clients buy on the market, on this node's account."""

    host: str = "127.0.0.1"
    """Address to listen on; any but a loopback one needs an API key first."""
    port: int = 8411
    hosts: tuple[str, ...] = ()
    """Names by which clients may address it, besides localhost and addresses."""
    origins: tuple[str, ...] = ()
    """Web origins whose pages may use it, such as https://chat.example."""
    requests_max: int = 256
    """At once; more are told to try again."""
    body_bytes_max: int = 4 * 1024 * 1024
    max_tokens: int = 1024
    """Longest answer to a request that names no limit."""
    timeout_s: float = 600.0
    """An answer is cut off after this."""
    upstream: str = ""
    """Of a server of the owner's own that speaks OpenAI's protocol: it answers where no worker is
    left.  Empty: nobody does."""
    upstream_key_file: str = ""
    """File with that server's API key, mode 0600; relative to the home; empty: it wants none."""
    upstream_models: tuple[str, ...] = ()
    """What it is asked for: MODEL=NAME for one model of the market, NAME for all others.  Empty:
    the same name."""
    upstream_continues: bool = False
    """It goes on with an answer that has begun (`continue_final_message`), as vLLM does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeystoreConfig:
    """Where the session key's password comes from, so that a server starts unattended."""

    password_file: str = ""
    """File with the password, mode 0600; relative to the home; empty: asked for on a terminal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All of it, for one home directory."""

    home: Path
    network: NetworkConfig = field(default_factory=NetworkConfig)
    chain: ChainConfig = field(default_factory=ChainConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    worker: WorkerConfig = field(default_factory=WorkerConfig)
    client: ClientConfig = field(default_factory=ClientConfig)
    gateway: GatewayConfig = field(default_factory=GatewayConfig)
    keystore: KeystoreConfig = field(default_factory=KeystoreConfig)


def read_file(path: Path) -> dict[str, Any]:
    """The settings of a config file, as ``{"section.key": value}``.

    Raises:
        ConfigError: No such file, not TOML, or a section that is not a table.
    """
    import tomllib

    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no config at {path}", hint=f"node init --home {path.parent}") from None
    # A number of too many digits is a plain ValueError, of which the others are kinds.
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from error
    settings: dict[str, Any] = {}
    for section, table in document.items():
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: {section} stands outside a section")
        settings |= {f"{section}.{key}": value for key, value in table.items()}
    return settings


def read_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """The settings among the environment's variables: ``GPUNODE_CHAIN_RPC_URL`` and the like."""
    settings: dict[str, str] = {}
    for name, text in environ.items():
        if name.startswith(ENV_PREFIX) and name not in ENV_RESERVED:
            section, _, key = name.removeprefix(ENV_PREFIX).lower().partition("_")
            settings[f"{section}.{key}"] = text
    return settings


def load(
    home: Path, *, flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> Config:
    """The config of a home: flag over environment over file over default.

    Args:
        home: The home directory; its `config.toml` is read.
        flags: Settings by ``section.key``; text is parsed as an environment variable would be.
        environ: The process's environment; None for nothing from there.

    Raises:
        ConfigError: A file, name or value that can't be used; says which and where it came from.
    """
    file = home / FILE_NAME
    merged: dict[str, tuple[Any, str]] = {}
    for source, settings in (
        (str(file), read_file(file)),
        ("environment", read_environ(environ or {})),
        ("command line", flags or {}),
    ):
        merged |= {name: (value, source) for name, value in settings.items()}
    return build(home, merged)


def given(config: Config, sections: Collection[str]) -> dict[str, Any]:
    """The settings of a config that its file does not have: of the command line, or environment.

    Raises:
        ConfigError: The file can't be used any more.
    """
    of_file = load(config.home)
    return {
        name: value
        for name in setting_kinds()
        if name.partition(".")[0] in sections
        and (value := setting(config, name)) != setting(of_file, name)
    }


def setting(config: Config, name: str) -> Any:
    """The value of a ``section.key``."""
    section, _, key = name.partition(".")
    return getattr(getattr(config, section), key)


def build(home: Path, settings: Mapping[str, tuple[Any, str]]) -> Config:
    """A checked config from ``{"section.key": (value, where it came from)}``.

    Raises:
        ConfigError: An unknown name, or a value of the wrong type or out of range.
    """
    from difflib import get_close_matches

    kinds = setting_kinds()
    sections: dict[str, dict[str, Any]] = {}
    for name, (value, source) in settings.items():
        if name not in kinds:
            close = get_close_matches(name, kinds, n=1, cutoff=0.5)
            raise ConfigError(
                f"{source}: there is no setting {name}",
                hint=f"did you mean {close[0]}?"
                if close
                else "the config.toml of a new home lists them all",
            )
        section, _, key = name.partition(".")
        try:
            parsed = _parse(kinds[name], value)
            _check(name, parsed)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{source}: {name} {error}") from error
        sections.setdefault(section, {})[key] = parsed
    hints = get_type_hints(Config)
    return Config(home=home, **{name: hints[name](**table) for name, table in sections.items()})


def setting_kinds() -> dict[str, Any]:
    """The type of each setting, by ``section.key``."""
    return {
        f"{section}.{key}": kind
        for section, cls in get_type_hints(Config).items()
        if is_dataclass(cls)
        for key, kind in get_type_hints(cls).items()
    }


def _parse(kind: Any, value: Any) -> Any:
    """A setting's value from TOML, or from text (environment, command line)."""
    if get_origin(kind) is tuple:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            raise TypeError("must be a list")
        return tuple(_parse(get_args(kind)[0], item) for item in items if item != "")
    if kind is SplitConfig:
        return _parse_split(value)
    if isinstance(value, str) and kind is not str:
        return _parse_text(kind, value.strip())
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise TypeError(f"must be {_KIND_NAMES[kind]}, not {value!r}")
    return value


_KIND_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _parse_text(kind: Any, text: str) -> Any:
    try:
        return _FLAGS[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise ValueError(f"must be {_KIND_NAMES[kind]}, not {text!r}") from None


def _parse_split(value: Any) -> SplitConfig:
    if isinstance(value, str):
        payee, _, bps = value.partition(":")
        value = {"payee": payee, "bps": _parse_text(int, bps)}
    if not isinstance(value, dict) or value.keys() != {"payee", "bps"}:
        raise TypeError("must be a list of {payee, bps}")
    split = SplitConfig(payee=_parse(str, value["payee"]), bps=_parse(int, value["bps"]))
    if not _ADDRESS.fullmatch(split.payee) or not 1 <= split.bps <= 10_000:
        raise ValueError(f"has a payee that is no address, or no basis points: {split}")
    return split


_ADDRESS = re.compile("0x[0-9a-fA-F]{40}")
_ADDRESSES = {"chain.escrow", "chain.token", "worker.payee", "worker.block"}
_MULTIADDRS = {"network.listen", "network.advertise", "network.bootstrap"}
_POSITIVE = {
    "network.sessions_max", "chain.chain_id", "chain.fee_max_gwei", "engine.slots",
    "engine.context", "worker.quantum_micro", "worker.jobs_per_client_max",
    "worker.reservation_s", "worker.payment_s", "client.bid_window_s", "client.discover_s",
    "client.workers_max", "client.job_cap_micro", "client.silence_s", "gateway.requests_max",
    "gateway.body_bytes_max", "gateway.max_tokens", "gateway.timeout_s",
}  # fmt: skip
_MOST = {"gateway.port": 65_535, "engine.threads": 256}
_URLS = {"engine.url": False, "gateway.upstream": False, "chain.rpc_url": True}
"""And whether one is needed."""
_CHOICES = {"engine.kind": ("auto", "onnx", "openai"), "engine.tier": ("auto", "text")}
_NUMBER_MAX = 2**53
"""Larger integers lose digits in JSON readers; a price of the protocol is no larger either."""


def _check(name: str, value: Any) -> None:
    """Ranges and forms.

    Raises:
        ValueError: With the end of a sentence that begins with the setting's name.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        floor = 1 if name in _POSITIVE and isinstance(value, int) else 0
        if not floor <= value <= _MOST.get(name, _NUMBER_MAX) or (name in _POSITIVE and value == 0):
            raise ValueError(f"is out of range: {value}")
    if name in _CHOICES and value not in _CHOICES[name]:
        raise ValueError(f"must be one of {', '.join(_CHOICES[name])}, not {value!r}")
    if name in _URLS and (value or _URLS[name]) and not value.startswith(("http://", "https://")):
        raise ValueError(f"must be an http or https address, not {value!r}")
    if name == "engine.models" and not all(all(each.partition("=")[::2]) for each in value):
        raise ValueError("must be a list of NAME=PATH")
    if name == "gateway.upstream_models" and not all(
        each.partition("=")[0].strip() and (each.partition("=")[2].strip() or "=" not in each)
        for each in value
    ):
        raise ValueError("must be a list of MODEL=NAME, or NAME")
    for text in value if isinstance(value, tuple) else (value,):
        if name in _ADDRESSES and text and not _ADDRESS.fullmatch(text):
            raise ValueError(f"must be 0x and 40 hex digits, not {text!r}")
        if name in _MULTIADDRS and not text.startswith("/"):
            raise ValueError(f"must be a multiaddr such as /ip4/127.0.0.1/tcp/4321, not {text!r}")
