"""Embeddings at the gateway: which models make them, and whether an answer is what they are."""

from collections.abc import Collection

from node.adapters.http.errors import unsupported
from node.errors import DecodeError
from node.protocol import embeddings
from node.protocol.embeddings import Inputs
from node.protocol.statements import Skill


def check_kind(offers: Collection[int], inputs: Inputs | None) -> None:
    """
    Args:
        offers: Skills of each live offer of the model.
        inputs: What is to be embedded; None: text is wanted.

    Raises:
        ApiError: Embeddings of a model that makes none, or text of one that makes nothing else.
    """
    if not offers:
        return  # the auction says so
    if inputs is None:
        if all(each & Skill.EMBEDDINGS for each in offers):
            raise unsupported("model", "this model makes embeddings, and answers nothing")
        return
    if not any(each & Skill.EMBEDDINGS for each in offers):
        raise unsupported("model", "this model makes no embeddings")
    if inputs.dimensions and not any(each & Skill.DIMENSIONS for each in offers):
        raise unsupported("dimensions", "no worker of this model can set them")


def fault(text: str, inputs: Inputs | None) -> str:
    """Why a complete answer can't be what was asked for, in one sentence; empty if it can."""
    if inputs is None:
        return ""
    try:
        embeddings.read(text, inputs)
    except DecodeError as error:
        return f"the worker's answer is no list of embeddings: {error}"
    return ""
