"""Config: which source wins, and what a wrong setting says."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import config
from node.config import Config, SplitConfig, load
from node.errors import ConfigError

PAYEE = "0x" + "ab" * 20


def write(home: Path, text: str) -> Path:
    (home / "config.toml").write_text(text)
    return home


def test_defaults_without_settings(tmp_path: Path) -> None:
    assert load(write(tmp_path, "")) == Config(home=tmp_path)


def test_flag_over_environment_over_file(tmp_path: Path) -> None:
    home = write(tmp_path, "[worker]\nprice_in = 1\nprice_out = 1\nprice_cached = 1\n")
    environ = {"GPUNODE_WORKER_PRICE_OUT": "2", "GPUNODE_WORKER_PRICE_CACHED": "2"}
    worker = load(home, environ=environ, flags={"worker.price_cached": "3"}).worker
    assert (worker.price_in, worker.price_out, worker.price_cached) == (1, 2, 3)


def test_every_kind_of_value(tmp_path: Path) -> None:
    home = write(
        tmp_path,
        f'[network]\nbootstrap = ["/ip4/127.0.0.1/tcp/1"]\ngossip = false\n'
        f'[worker]\nsplits = [{{payee = "{PAYEE}", bps = 250}}]\ndrain_s = 5\n',
    )
    loaded = load(home)
    assert loaded.network.bootstrap == ("/ip4/127.0.0.1/tcp/1",)
    assert loaded.network.gossip is False
    assert loaded.worker.splits == (SplitConfig(payee=PAYEE, bps=250),)
    assert loaded.worker.drain_s == 5.0


def test_text_gives_the_same_as_toml(tmp_path: Path) -> None:
    environ = {
        "GPUNODE_NETWORK_BOOTSTRAP": "/ip4/127.0.0.1/tcp/1,/ip4/127.0.0.1/tcp/2",
        "GPUNODE_NETWORK_GOSSIP": "false",
        "GPUNODE_WORKER_SPLITS": f"{PAYEE}:250",
        "GPUNODE_WORKER_DRAIN_S": "5",
    }
    loaded = load(write(tmp_path, ""), environ=environ)
    assert loaded.network.bootstrap == ("/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/2")
    assert loaded.network.gossip is False
    assert loaded.worker.splits == (SplitConfig(payee=PAYEE, bps=250),)
    assert loaded.worker.drain_s == 5.0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[worker]\nprice_ou = 1\n", "no setting worker.price_ou"),
        ("[workers]\nprice_out = 1\n", "no setting workers.price_out"),
        ("[worker]\nprice_out = '1 coin'\n", "worker.price_out must be a whole number"),
        ("[worker]\nprice_out = -1\n", "worker.price_out is out of range"),
        ("[worker]\nprice_out = 1.5\n", "worker.price_out must be a whole number"),
        ("[worker]\nprice_out = true\n", "worker.price_out must be a whole number"),
        ("[worker]\nquantum_micro = 0\n", "worker.quantum_micro is out of range"),
        ("[engine]\nthreads = -1\n", "engine.threads is out of range: -1"),
        ("[engine]\nthreads = 257\n", "engine.threads is out of range: 257"),
        ("[gateway]\nport = 65536\n", "gateway.port is out of range: 65536"),
        ("[worker]\npayment_s = nan\n", "worker.payment_s is out of range"),
        ("[worker]\npayee = '0x12'\n", "worker.payee must be 0x and 40 hex digits"),
        ("[worker]\nblock = 'no list'\n", "worker.block must be 0x and 40 hex digits"),
        ("[worker]\nsplits = [{payee = 'x', bps = 1}]\n", "worker.splits has a payee"),
        ("[worker]\nsplits = [{bps = 1}]\n", "worker.splits must be a list of"),
        ("[network]\nlisten = ['127.0.0.1:1']\n", "network.listen must be a multiaddr"),
        ("[network]\nlisten = 7\n", "network.listen must be a list"),
        ("[network]\ngossip = 'maybe'\n", "network.gossip must be true or false"),
        ("[chain]\nrpc_url = 'localhost'\n", "chain.rpc_url must be an http"),
        ("[engine]\nkind = 'magic'\n", "engine.kind must be one of auto, onnx"),
        ("price_out = 1\n", "price_out stands outside a section"),
        ("[worker\n", "config.toml"),
    ],
)
def test_refused_with_its_reason(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, text))
    assert says in str(caught.value)


def test_suggests_the_setting_that_was_meant(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, ""), environ={"GPUNODE_CHAIN_RCP_URL": "http://x"})
    assert caught.value.hint == "did you mean chain.rpc_url?"


def test_no_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert caught.value.hint == f"node init --home {tmp_path}"


def test_reserved_variables_are_no_settings() -> None:
    assert config.read_environ(dict.fromkeys(config.ENV_RESERVED, "x")) == {}


def test_tables_of_checks_name_real_settings() -> None:
    named = config._ADDRESSES | config._MULTIADDRS | config._POSITIVE | config._CHOICES.keys()
    assert named <= config.setting_kinds().keys()


def test_no_setting_has_a_name_that_hides_another() -> None:
    """`GPUNODE_A_B_C` is read as section a, key b_c: a section's name has no underscore."""
    assert all("_" not in name.split(".")[0] for name in config.setting_kinds())


@given(st.text(), st.sampled_from(sorted(config.setting_kinds())))
def test_any_text_is_parsed_or_refused(text: str, name: str) -> None:
    try:
        config.build(Path(), {name: (text, "test")})
    except ConfigError as error:
        said = str(error)
    else:
        said = f"test: {name}"
    assert said.startswith(f"test: {name}")
