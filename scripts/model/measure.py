"""Checks of the exported files: the numbers are torch's, and how many answers come out right."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch  # type: ignore[import-not-found]  # only where a model is built
from corpus import HeldOut, is_right
from export import GRAPH
from network import Decoder
from numpy.typing import NDArray
from shape import ASSISTANT, END, START, USER, Shape, id_of
from tokenizers import Tokenizer

ANSWER_TOKENS_MAX = 160
Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What was asked that was never trained, and what came out right."""

    asked: int
    right: int
    exact: int
    wrong: tuple[tuple[str, str, str], ...]
    """Question, topic and answer."""


class Runner:
    """Greedy decoding of one prompt at a time, straight on ONNX Runtime."""

    def __init__(self, folder: Path, shape: Shape, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            str(folder / GRAPH), options, providers=["CPUExecutionProvider"]
        )
        self._names = [output.name for output in self._session.get_outputs()]
        empty = np.zeros((1, shape.kv_heads, 0, shape.head_width), dtype=np.float32)
        parts = [f"{n}.{part}" for n in range(shape.layers) for part in ("key", "value")]
        self.empty = {f"past_key_values.{part}": empty for part in parts}

    def step(self, ids: list[int], past: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        done = next(iter(past.values())).shape[2]
        feeds = {
            "input_ids": np.array([ids], dtype=np.int64),
            "attention_mask": np.ones((1, done + len(ids)), dtype=np.int64),
            "position_ids": np.arange(done, done + len(ids), dtype=np.int64)[None],
        }
        outputs = dict(zip(self._names, self._session.run(None, feeds | past), strict=True))
        logits = outputs.pop("logits")
        return logits[0], {
            name.replace("present", "past_key_values"): value for name, value in outputs.items()
        }

    def greedy(self, ids: list[int], *, end: int, limit: int) -> list[int]:
        logits, past = self.step(ids, self.empty)
        made: list[int] = []
        while len(made) < limit:
            best = int(logits[-1].argmax())
            if best == end:
                break
            made.append(best)
            logits, past = self.step([best], past)
        return made


def prompt_ids(tokenizer: Tokenizer, question: str) -> list[int]:
    text = f"{START}{USER}{question}{END}{ASSISTANT}"
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def largest_difference(model: Decoder, runner: Runner, ids: list[int]) -> tuple[float, float]:
    """Largest logit difference of torch against the graph: in one run, and token by token."""
    with torch.inference_mode():
        wanted = model(torch.tensor([ids]))[0].numpy()
    whole, _ = runner.step(ids, runner.empty)
    rows, past = [], runner.empty
    for token in ids:
        row, past = runner.step([token], past)
        rows.append(row[0])
    return float(abs(whole - wanted).max()), float(abs(np.stack(rows) - wanted).max())


def score(runner: Runner, tokenizer: Tokenizer, tests: tuple[HeldOut, ...]) -> Score:
    """Ask every held-out question alone.  Right: the answer has every key fact of its topic."""
    end = id_of(tokenizer, END)
    right = exact = 0
    wrong = []
    for test in tests:
        ids = prompt_ids(tokenizer, test.question)
        answer = tokenizer.decode(runner.greedy(ids, end=end, limit=ANSWER_TOKENS_MAX))
        exact += answer == test.topic.answer
        if is_right(test.topic, answer):
            right += 1
        else:
            wrong.append((test.question, test.topic.key, answer))
    return Score(asked=len(tests), right=right, exact=exact, wrong=tuple(wrong))
