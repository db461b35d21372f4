"""Sampling parameters: ranges, and the way over the wire."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import PeerError
from node.protocol.frames import SamplingFields
from node.protocol.sampling import Sampling


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -0.1},
        {"temperature": 10.1},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"presence": 2.1},
        {"frequency": -2.1},
        {"repetition": 0.0},
        {"repetition": 11.0},
        {"seed": 2**64},
        {"choice": 2**32},
        {"logprobs": 21},
    ],
)
def test_out_of_range(bad: dict[str, float]) -> None:
    with pytest.raises(PeerError, match=next(iter(bad))):
        Sampling(**bad)  # type: ignore[arg-type]  # one field of several types


@given(
    st.builds(
        SamplingFields,
        temperature=st.integers(0, 10_000_000),
        top_p=st.integers(1, 1_000_000),
        top_k=st.integers(0, 2**32 - 1),
        presence=st.integers(-2_000_000, 2_000_000),
        frequency=st.integers(-2_000_000, 2_000_000),
        repetition=st.integers(1, 10_000_000),
        logprobs=st.integers(0, 21),
        choice=st.integers(0, 2**32 - 1),
    )
)
def test_fields_come_back_as_they_were(fields: SamplingFields) -> None:
    assert Sampling.of(fields, seed=5).fields() == fields


def test_logprobs_none_is_not_zero_alternatives() -> None:
    assert Sampling().fields().logprobs == 0
    assert Sampling(logprobs=0).fields().logprobs == 1


def test_only_penalties_need_the_history() -> None:
    assert not Sampling(temperature=0.2, top_k=5, top_p=0.5).penalises
    assert Sampling(presence=0.1).penalises
    assert Sampling(frequency=0.1).penalises
    assert Sampling(repetition=1.1).penalises
