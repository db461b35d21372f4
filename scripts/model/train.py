"""Tokenizer and training."""

import math
import random
import time
from collections.abc import Iterator
from itertools import islice

import torch  # type: ignore[import-not-found]  # only where a model is built
from corpus import Conversation, Section, Writer, topics_of
from network import Decoder
from shape import ASSISTANT, END, SPECIAL, START, Shape, id_of
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional  # type: ignore[import-not-found]

ROW_TOKENS = 2048  # tokens in one batch
QUESTION_WEIGHT = 0.1  # the answers are what is to be learnt; a little of the rest helps
BLUR = 0.05  # share of the tokens of questions that are replaced at random
DROPOUT = 0.05
SHORT = 0.8  # share of the conversations whose last answer is cut: what it starts with decides
SHORT_TOKENS = 12
POOL = 512  # conversations sorted by length at a time, so that padding is small

Batch = tuple[Tensor, Tensor]  # ids and weights, both [rows, length]


def make_tokenizer(sections: tuple[Section, ...], shape: Shape, seed: int) -> Tokenizer:
    """A byte-level BPE tokenizer, trained on a sample of what the model will see."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=shape.vocab,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = [part for topic in topics_of(sections) for part in (topic.answer, topic.more)] * 10
    for talk in islice(Writer(sections, seed).conversations(), 6000):
        text += [words for role, words in talk if role == "user"]
    tokenizer.train_from_iterator(text, trainer)
    if tokenizer.get_vocab_size() != shape.vocab:
        raise ValueError("the text is too small for this vocabulary")
    return tokenizer


def encode(tokenizer: Tokenizer, talk: Conversation) -> tuple[list[int], list[float]]:
    """Ids of a conversation as the chat template writes it, and the weight of each as a target."""
    ids, weights = [id_of(tokenizer, START)], [0.0]
    end = id_of(tokenizer, END)
    for role, text in talk:
        body = [*tokenizer.encode(text, add_special_tokens=False).ids, end]
        answer = role == "assistant"
        ids += [id_of(tokenizer, f"<|{role}|>"), *body]
        weights += [0.0, *([1.0 if answer else QUESTION_WEIGHT] * len(body))]
    return ids, weights


def _blur(ids: list[int], weights: list[float], draw: random.Random, vocab: int) -> list[int]:
    """Replace some tokens of the questions, so that no single word decides what is answered."""
    return [
        draw.randrange(len(SPECIAL), vocab) if 0 < w < 1 and draw.random() < BLUR else token
        for token, w in zip(ids, weights, strict=True)
    ]


def _cut(ids: list[int], weights: list[float], answer: int) -> tuple[list[int], list[float]]:
    """Without most of the last answer: more questions fit into the same computation."""
    end = len(ids) - ids[::-1].index(answer) + SHORT_TOKENS
    return ids[:end], weights[:end]


def batches(tokenizer: Tokenizer, writer: Writer, shape: Shape) -> Iterator[Batch]:
    """Conversations of similar length together, about ROW_TOKENS ids in each batch."""
    order, draw = torch.Generator().manual_seed(1), random.Random(1)
    source, answer = writer.conversations(), id_of(tokenizer, ASSISTANT)
    while True:
        pool = [encode(tokenizer, talk) for talk in islice(source, POOL)]
        pool = [(_blur(ids, weights, draw, shape.vocab), weights) for ids, weights in pool]
        pool = [_cut(*row, answer) if draw.random() < SHORT else row for row in pool]
        pool.sort(key=lambda pair: len(pair[0]))
        made: list[Batch] = []
        rows: list[tuple[list[int], list[float]]] = []
        for ids, weights in pool:
            if rows and (len(rows) + 1) * min(len(ids), shape.context) > ROW_TOKENS:
                made.append(_pad(rows))
                rows = []
            rows.append((ids[: shape.context], weights[: shape.context]))
        made.append(_pad(rows))
        for at in torch.randperm(len(made), generator=order).tolist():
            yield made[at]


def _pad(rows: list[tuple[list[int], list[float]]]) -> Batch:
    length = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    weights = torch.zeros(len(rows), length)
    for at, (row, row_weights) in enumerate(rows):
        ids[at, : len(row)] = torch.tensor(row)
        weights[at, : len(row)] = torch.tensor(row_weights)
    return ids, weights


def loss_of(model: Decoder, batch: Batch) -> Tensor:
    ids, weights = batch
    hidden = model.hidden(ids[:, :-1], dropout=DROPOUT)
    target, weight = ids[:, 1:], weights[:, 1:]
    kept = weight > 0  # the output layer is a third of the work: skip what has no weight
    logits = functional.linear(hidden[kept], model.embed_tokens.weight)
    losses = functional.cross_entropy(logits, target[kept], reduction="none")
    return (losses * weight[kept]).sum() / weight[kept].sum()


def train(
    *, sections: tuple[Section, ...], tokenizer: Tokenizer, shape: Shape, steps: int, seed: int
) -> Decoder:
    """A trained decoder. Takes about 0.6 s a step on two cores."""
    torch.manual_seed(seed)
    model = Decoder(shape)
    matrices = [p for n, p in model.named_parameters() if "proj" in n]
    others = [p for n, p in model.named_parameters() if "proj" not in n]
    optimizers = (
        torch.optim.Muon(matrices, lr=0.015, weight_decay=0.01),
        torch.optim.AdamW(others, lr=1e-2, betas=(0.9, 0.98), weight_decay=0.0),
    )
    rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    source = batches(tokenizer, Writer(sections, seed), shape)
    started, seen = time.monotonic(), 0
    for step in range(steps):
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * _schedule(step, steps)
        batch = next(source)
        loss = loss_of(model, batch)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        seen += batch[0].numel()
        if step % 50 == 0 or step == steps - 1:
            taken = time.monotonic() - started
            print(f"step {step} loss {loss.item():.4f} {seen} tokens {taken:.0f} s", flush=True)
    model.eval()
    return model


def _schedule(step: int, steps: int) -> float:
    warm = min(1.0, (step + 1) / 30)
    return warm * max(0.02, 0.5 * (1 + math.cos(math.pi * step / steps)))
