"""A short run of each; `scripts/fuzz` runs them for as long as one likes."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.errors import SessionLost
from tests.fuzz.decoders import decoders
from tests.fuzz.mutate import mutated

EXAMPLES = 25


@pytest.mark.parametrize("name", decoders())
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_nothing_but_its_own_errors_escapes(name: str, data: st.DataObject) -> None:
    decoder = decoders()[name]
    try:
        decoder.decode(data.draw(mutated(decoder.valid)))
    except decoder.errors:
        return


@pytest.mark.parametrize("name", decoders())
def test_what_mutations_start_from_is_valid(name: str) -> None:
    decoder = decoders()[name]
    for valid in decoder.valid:
        if name == "stream of frames":  # which ends with its end
            with pytest.raises(SessionLost):
                decoder.decode(valid)
        else:
            decoder.decode(valid)
