import pytest

from node.adapters.http.errors import ApiError
from node.app.gateway_embeddings import check_kind, fault
from node.protocol import embeddings
from node.protocol.embeddings import Inputs
from node.protocol.statements import Skill

INPUTS = Inputs(texts=("x", "y"))
SIZED = Inputs(texts=("x",), dimensions=3)
TEXT, VECTORS = Skill.JSON | Skill.TOOLS, int(Skill.EMBEDDINGS)


@pytest.mark.parametrize(
    ("offers", "inputs", "param"),
    [
        ([], INPUTS, ""),
        ([TEXT, VECTORS], INPUTS, ""),
        ([TEXT, VECTORS], None, ""),
        ([0], None, ""),
        ([VECTORS, VECTORS | Skill.DIMENSIONS], SIZED, ""),
        ([TEXT, 0], INPUTS, "model"),
        ([VECTORS], None, "model"),
        ([VECTORS], SIZED, "dimensions"),
        ([TEXT], SIZED, "model"),
    ],
)
def test_what_no_offer_can_do_is_refused_before_the_auction(
    offers: list[int], inputs: Inputs | None, param: str
) -> None:
    if not param:
        check_kind(offers, inputs)
        return
    with pytest.raises(ApiError) as caught:
        check_kind(offers, inputs)
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize("output", ["", "I'm sorry", "AACAPw==", "AACAPw==\nAACAfw=="])
def test_an_answer_that_is_no_embeddings_is_not_passed_on(output: str) -> None:
    assert "no list of embeddings" in fault(output, INPUTS)


def test_embeddings_and_texts_are() -> None:
    assert not fault("".join(embeddings.written([[1.0], [2.0]])), INPUTS)
    assert not fault("I'm sorry", None)
