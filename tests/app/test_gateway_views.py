"""What the gateway says of models and workers."""

import pytest

from node.app.gateway_views import PARAMETERS, endpoint_view, model_view
from node.protocol.fields import Signed
from node.protocol.offers import Standing
from node.protocol.statements import Skill, Terms, Tier
from tests.protocol.market_samples import MODEL, terms


def offered(offer: Terms) -> Standing:
    return Standing(signed=Signed(offer, bytes(64)), digest=bytes(32), arrived_s=0.0)


@pytest.mark.parametrize(
    ("tier", "skills", "more"),
    [
        (Tier.TEXT, 0, set()),
        (Tier.IDS, 0, {"logprobs", "top_logprobs"}),
        (Tier.TEXT, Skill.JSON, {"response_format"}),
        (
            Tier.TEXT,
            Skill.SCHEMA,
            {"response_format", "structured_outputs", "tools", "tool_choice"},
        ),
        (Tier.TEXT, Skill.TOOLS | 128, {"tools", "tool_choice", "parallel_tool_calls"}),
    ],
)
def test_the_parameters_are_those_that_the_terms_offer(
    tier: Tier, skills: int, more: set[str]
) -> None:
    offer = terms(1, tier=tier, skills=skills)
    told = endpoint_view(offer, name="m", track=None, samples=())["supported_parameters"]
    assert set(told) == {*PARAMETERS, *more}
    assert len(told) == len(set(told))


def test_a_model_of_embeddings_takes_nothing_of_text() -> None:
    offer = terms(1, tier=Tier.TEXT, skills=Skill.EMBEDDINGS)
    told = endpoint_view(offer, name="m", track=None, samples=())
    assert told["supported_parameters"] == ["encoding_format"]
    assert told["context_length"] is None
    offers = [offered(offer), offered(terms(2, skills=Skill.EMBEDDINGS | Skill.DIMENSIONS))]
    told = model_view(MODEL, name="m", workers=2, offers=offers, created_s=0)
    assert {"dimensions", "encoding_format"} <= set(told["supported_parameters"])
    assert "temperature" not in told["supported_parameters"]
    assert told["context_length"] is None


def test_a_model_takes_what_one_of_its_workers_takes() -> None:
    offers = [offered(terms(1)), offered(terms(2, skills=Skill.JSON))]
    told = model_view(MODEL, name="m", workers=2, offers=offers, created_s=0)
    assert "response_format" in told["supported_parameters"]
    assert "tools" not in told["supported_parameters"]
    nobody = model_view(MODEL, name="m", workers=2, offers=(), created_s=0)
    assert nobody["supported_parameters"] == list(PARAMETERS)
