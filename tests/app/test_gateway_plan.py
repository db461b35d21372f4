"""Which auctions a request may take, and in which order."""

import pytest

from node.adapters.http.port import Ask, Routing
from node.app.gateway_plan import precise_enough, steps
from node.config import ClientConfig
from node.errors import UsageError
from node.protocol.sampling import Sampling
from node.protocol.scoring import Preferences

A, B = "0x" + "aa" * 20, "0x" + "bb" * 20
CONFIG = ClientConfig(job_cap_micro=5_000, prepay_max_micro=7)


def plan(*models: str, **routing: object) -> list[tuple[str, Preferences]]:
    ask = Ask(models=models or ("m",), sampling=Sampling(), routing=Routing(**routing))  # type: ignore[arg-type]
    return [(step.model, step.preferences) for step in steps(ask, CONFIG)]


def test_without_wishes_there_is_one_auction() -> None:
    [(model, prefs)] = plan()
    assert model == "m"
    assert (prefs.price_micro_max, prefs.prepay_micro_max, prefs.sort) == (5_000, 7, "score")
    assert not prefs.insists_on


def test_an_order_is_tried_one_by_one_and_then_all() -> None:
    workers = [prefs.worker for _, prefs in plan(order=(A, B, A))]
    assert workers == [bytes.fromhex(A[2:]), bytes.fromhex(B[2:]), None]


def test_without_fallbacks_nothing_else_is_tried() -> None:
    tried = plan("m", "k", order=(A,), allow_fallbacks=False)
    assert [(model, prefs.worker) for model, prefs in tried] == [("m", bytes.fromhex(A[2:]))]


def test_preferred_pace_comes_first_and_binds_nobody() -> None:
    quick, rest = (prefs for _, prefs in plan(first_token_ms_max=300, rate_mtps_min=9))
    assert (quick.first_token_ms_max, quick.rate_mtps_min) == (300, 9)
    assert (rest.first_token_ms_max, rest.rate_mtps_min) == (None, None)


def test_limits_hold_in_every_auction() -> None:
    tried = plan("m", "k", only=(A, B), ignore=(B,), price_in_max=1, price_out_max=2, sort="price")
    assert [model for model, _ in tried] == ["m", "k"]
    for _, prefs in tried:
        assert prefs.only == {bytes.fromhex(A[2:]), bytes.fromhex(B[2:])}
        assert prefs.ignore == {bytes.fromhex(B[2:])}
        assert (prefs.price_in_max, prefs.price_out_max, prefs.sort) == (1, 2, "price")


def test_a_name_that_is_no_worker_is_said() -> None:
    with pytest.raises(UsageError, match=r"provider\.only"):
        plan(only=("openai",))


@pytest.mark.parametrize(
    ("wanted", "precision", "will_do"),
    [
        ((), "anything", True),
        (("fp16",), "float16", True),
        (("FP16", "int8"), "int8", True),
        (("fp16",), "float32", False),
        (("q4f16",), "q4f16", True),
    ],
)
def test_precisions_by_openrouters_names(
    wanted: tuple[str, ...], precision: str, will_do: bool
) -> None:
    assert precise_enough(Routing(quantizations=wanted), precision) is will_do
