"""Our engine beside onnxruntime-genai on the same model: tokens per CPU-second, in turns.

genai lives in a virtual environment of its own (`.venv-genai`, ignored by git, made on the first
run) and gets the shipped model with a description in its own format, in a temporary folder.
"""

import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, Final

from node.adapters import model_folder
from tests.bench.figures import Figure, Report, median

ROOT: Final = Path(__file__).resolve().parents[2]
GENAI_ENV: Final = ROOT / ".venv-genai"
GENAI: Final = "onnxruntime-genai==0.18.0"
BATCHES: Final = (1, 2, 4, 8, 16)
SHORT_PROMPT: Final = 16
LONG_PROMPT: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is run."""

    rounds: int
    decode_tokens: int


QUICK: Final = Plan(rounds=4, decode_tokens=64)
FULL: Final = Plan(rounds=25, decode_tokens=128)


class Side:
    """A child that computes what it is asked for."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )

    def run(self, *, batch: int, prompt: int, tokens: int, sampled: bool = False) -> float:
        """CPU seconds of `batch` jobs.

        Raises:
            RuntimeError: The child failed, or made another number of tokens.
        """
        wanted = {"batch": batch, "prompt": prompt, "tokens": tokens, "sampled": sampled}
        _pipe(self._process.stdin).write(json.dumps(wanted) + "\n")
        _pipe(self._process.stdin).flush()
        line = _pipe(self._process.stdout).readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with {self._process.wait(10)}")
        answer: dict[str, Any] = json.loads(line)
        if answer["made"] != batch * tokens:
            raise RuntimeError(f"{answer['made']} tokens made instead of {batch * tokens}")
        return float(answer["cpu_s"])

    def decode_tps(self, *, batch: int, tokens: int, sampled: bool = False) -> float:
        """Output tokens per CPU-second, all jobs together, without what comes before them."""
        before_s = self.run(batch=batch, prompt=SHORT_PROMPT, tokens=1, sampled=sampled)
        with_s = self.run(batch=batch, prompt=SHORT_PROMPT, tokens=1 + tokens, sampled=sampled)
        return batch * tokens / max(with_s - before_s, 1e-6)

    def prefill_tps(self, *, batch: int) -> float:
        """Prompt tokens per CPU-second, up to the first token."""
        return batch * LONG_PROMPT / self.run(batch=batch, prompt=LONG_PROMPT, tokens=1)

    def close(self) -> None:
        _pipe(self._process.stdin).close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _pipe(self._process.stdout).close()


def main(*, quick: bool, json: bool) -> int:
    plan = QUICK if quick else FULL
    report = Report(json, "Our engine beside onnxruntime-genai, the shipped model, one thread each")
    try:
        python = _genai_python(report)
        with _genai_model() as folder, _sides(python, folder) as (ours, genai):
            report.say("warming up")
            for side in (ours, genai):
                side.run(batch=max(BATCHES), prompt=SHORT_PROMPT, tokens=16)
            _decode(report, plan, ours, genai)
            _prefill(report, plan, ours, genai)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        report.failures.append(str(error))
    return report.end()


def _decode(report: Report, plan: Plan, ours: Side, genai: Side) -> None:
    totals: dict[int, float] = {}
    for batch in BATCHES:
        rows = [_decode_pair(ours, genai, batch, plan) for _ in range(plan.rounds)]
        _add_pair(report, f"decode, batch {batch}", rows, floor=1.0 if batch == 1 else None)
        totals[batch] = max(row[0] for row in rows)
    for batch in (1, max(BATCHES)):
        rows = [_decode_pair(ours, genai, batch, plan, sampled=True) for _ in range(plan.rounds)]
        _add_pair(report, f"decode at temperature 1, batch {batch}", rows)
    report.add(
        Figure(
            name="decode, our batch of 16 over our batch of 1",
            measured=totals[max(BATCHES)] / totals[1],
            unit="x",
            target=1.0,
            at_least=True,
            note="tokens per CPU-second of all jobs together",
        )
    )


def _decode_pair(
    ours: Side, genai: Side, batch: int, plan: Plan, *, sampled: bool = False
) -> tuple[float, float]:
    tokens = plan.decode_tokens
    return (
        ours.decode_tps(batch=batch, tokens=tokens, sampled=sampled),
        genai.decode_tps(batch=batch, tokens=tokens, sampled=sampled),
    )


def _prefill(report: Report, plan: Plan, ours: Side, genai: Side) -> None:
    for batch in (1, 4):
        rows = [
            (ours.prefill_tps(batch=batch), genai.prefill_tps(batch=batch))
            for _ in range(plan.rounds)
        ]
        _add_pair(report, f"prefill of {LONG_PROMPT} tokens, batch {batch}", rows)


def _add_pair(
    report: Report, name: str, rows: Sequence[tuple[float, float]], *, floor: float | None = None
) -> None:
    """The best round of each side: whatever else the machine does only ever slows one down."""
    mine, theirs = (max(row[side] for row in rows) for side in (0, 1))
    spread = median([row[0] / row[1] for row in rows])
    report.add(
        Figure(
            name=f"{name}, ours over genai",
            measured=mine / theirs,
            unit="x",
            target=floor,
            at_least=True,
            note=f"{mine:,.0f} and {theirs:,.0f} tok/CPU-s; median of the rounds {spread:.2f} x",
        )
    )


@contextmanager
def _sides(python: Path, folder: Path) -> Iterator[tuple[Side, Side]]:
    here = Path(__file__).parent
    ours = Side([sys.executable, "-m", "tests.bench.engine_ours"])
    try:
        genai = Side([str(python), str(here / "engine_genai.py"), str(folder)])
        try:
            yield ours, genai
        finally:
            genai.close()
    finally:
        ours.close()


def _genai_python(report: Report) -> Path:
    """The interpreter of genai's environment, which is made where it is missing."""
    python = GENAI_ENV / "bin" / "python"
    wanted = f"{GENAI} onnxruntime=={version('onnxruntime')}"
    stamp = GENAI_ENV / "installed"
    if not stamp.is_file() or stamp.read_text() != wanted:
        report.say(f"installing {wanted} into {GENAI_ENV.name}")
        venv.create(GENAI_ENV, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "--quiet", *wanted.split()]
        subprocess.run(install, check=True, stdout=sys.stderr)
        stamp.write_text(wanted)
    return python


@contextmanager
def _genai_model() -> Iterator[Path]:
    """The shipped model as genai wants it: the same files, and its own description beside them."""
    shipped = model_folder.shipped()
    config = json.loads((shipped / "config.json").read_text())
    with tempfile.TemporaryDirectory(prefix="gpunode-genai-") as temporary:
        folder = Path(temporary)
        for name in ("model.onnx", "model.safetensors"):
            # Copied: it refuses external data behind a link that leads out of the folder.
            (folder / name).write_bytes((shipped / name).read_bytes())
        (folder / "genai_config.json").write_text(json.dumps(_genai_config(config)))
        yield folder


def _genai_config(config: dict[str, Any]) -> dict[str, Any]:
    context = config["max_position_embeddings"]
    return {
        "model": {
            "type": config["model_type"],
            "bos_token_id": config["bos_token_id"],
            "eos_token_id": config["eos_token_id"],
            "pad_token_id": config["pad_token_id"],
            "context_length": context,
            "vocab_size": config["vocab_size"],
            "decoder": {
                "filename": "model.onnx",
                "session_options": {
                    "intra_op_num_threads": 1,
                    "inter_op_num_threads": 1,
                    "provider_options": [],
                },
                "hidden_size": config["hidden_size"],
                "head_size": config["head_dim"],
                "num_attention_heads": config["num_attention_heads"],
                "num_key_value_heads": config["num_key_value_heads"],
                "num_hidden_layers": config["num_hidden_layers"],
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "position_ids": "position_ids",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        # Its shared cache needs an operator of its own in the graph, which ours does without.
        "search": {"max_length": context, "past_present_share_buffer": False},
    }


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream
