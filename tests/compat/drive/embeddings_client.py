"""Embeddings of a real model through the gateway: OpenAI's client, and langchain's on top of it."""

import math
from collections.abc import Sequence
from typing import Any

import openai
from langchain_openai import OpenAIEmbeddings  # type: ignore[import-not-found]

from tests.compat.drive.driving import REFUSED, Target, drive, expect

TEXTS = [
    "A worker is paid with vouchers.",
    "Whoever computes gets money by signed promises.",
    "The cat sleeps on the warm stove.",
]


def client_of(target: Target) -> openai.OpenAI:
    return openai.OpenAI(base_url=target.base_url, api_key="any", max_retries=0)


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def list_of(target: Target) -> None:
    answer: Any = client_of(target).embeddings.create(model=target.model, input=TEXTS)
    first, second, other = (each.embedding for each in answer.data)
    expect(cosine(first, second) > cosine(first, other) + 0.1, answer.usage)
    expect(answer.usage.prompt_tokens > 0 < answer.usage.cost_micro, answer.usage)


def both_encodings(target: Target) -> None:
    create = client_of(target).embeddings.create
    packed = create(model=target.model, input=TEXTS[0]).data[0].embedding
    plain = create(model=target.model, input=TEXTS[0], encoding_format="float").data[0].embedding
    expect(cosine(packed, plain) > 0.9999, (packed[:3], plain[:3]))


def many(target: Target) -> None:
    texts = [f"{TEXTS[n % 3]} ({n})" for n in range(300)]
    answer = client_of(target).embeddings.create(model=target.model, input=texts)
    expect([each.index for each in answer.data] == list(range(300)), len(answer.data))
    alone = client_of(target).embeddings.create(model=target.model, input=texts[299])
    expect(cosine(answer.data[299].embedding, alone.data[0].embedding) > 0.999)


def token_ids(target: Target) -> str:
    try:
        client_of(target).embeddings.create(model=target.model, input=[1, 2, 3])
    except openai.BadRequestError as error:
        expect(error.param == "input", error)
        return REFUSED
    raise AssertionError("they were taken")


def documents(target: Target) -> None:
    made = OpenAIEmbeddings(
        base_url=target.base_url, api_key="any", model=target.model,
        check_embedding_ctx_length=False,
    )  # fmt: skip
    vectors = made.embed_documents(TEXTS)
    asked = made.embed_query("How does a worker get its money?")
    nearest = max(range(3), key=lambda n: cosine(vectors[n], asked))
    expect(nearest < 2, nearest)


if __name__ == "__main__":
    drive(
        "openai",
        {
            "embeddings of a list": list_of,
            "embeddings as base64 and as floats": both_encodings,
            "embeddings of 300 texts": many,
            "embeddings of token ids": token_ids,
        },
    )
    drive("langchain-openai", {"embed_documents and embed_query": documents})
