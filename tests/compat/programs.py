"""Programs that know nothing of us, against our gateway."""

import json
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tests.compat.drive.driving import PROMPT, Target
from tests.compat.environments import ROOT, python_of
from tests.compat.report import FAILED, Report

DRIVER_S: Final = 300
COMMAND_S: Final = 120


def programs(report: Report, target: Target, folder: Path) -> None:
    """All of them.

    Args:
        report: Where their lines go.
        target: The gateway.
        folder: For what they write.
    """
    drive(report, "openai", "tests.compat.drive.openai_client", target)
    drive(report, "langchain", "tests.compat.drive.langchain_client", target)
    drive(report, "litellm", "tests.compat.drive.litellm_client", target)
    _llm(report, target, folder)
    _curl(report, target)


def drive(report: Report, environment: str, driver: str, target: Target) -> None:
    """Run a driver in its environment, and report what it found."""
    python = python_of(environment)
    environ = _plain_environ() | {"PYTHONPATH": str(ROOT), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    report.about(environment, "")
    ran = subprocess.run(
        [str(python), "-m", driver, target.base_url, target.model],
        capture_output=True, text=True, cwd=ROOT, env=environ, timeout=DRIVER_S,
    )  # fmt: skip
    for line in filter(lambda line: line.startswith("{"), ran.stdout.splitlines()):
        told = json.loads(line)
        if "program" in told:
            report.about(told["program"], told["version"])
        else:
            report.line(told["what"], told["result"], told["detail"])
    if ran.returncode != 0:
        report.line("its driver", FAILED, f"exit {ran.returncode}: {ran.stderr[-2000:]}")


def _llm(report: Report, target: Target, folder: Path) -> None:
    bin_folder = python_of("llm").parent
    home = folder / "llm"
    home.mkdir()
    described = [
        {"model_id": "market", "model_name": target.model, "api_base": target.base_url},
    ]
    (home / "extra-openai-models.yaml").write_text(json.dumps(described))  # JSON is YAML
    environ = _plain_environ() | {"LLM_USER_PATH": str(home), "OPENAI_API_KEY": "any"}

    def llm(*argv: str) -> str:
        return _said([str(bin_folder / "llm"), *argv], environ)

    report.about("llm", llm("--version").split()[-1])
    options = ("-o", "temperature", "0", "-o", "max_tokens", "40", "-o", "seed", "7")
    with report.check("lists the model of its extra-openai-models.yaml"):
        assert re.search(r"\bmarket\b", llm("models"))
    with report.check("prompt, streamed and with --no-stream"):
        parts = llm("-m", "market", *options, PROMPT)
        whole = llm("-m", "market", "--no-stream", *options, PROMPT)
        assert parts.strip(), "no answer"
        assert parts == whole, (parts, whole)
    with report.check("a conversation goes on with -c"):
        assert llm("-c", "-o", "max_tokens", "20", "And who writes it?").strip()


def _curl(report: Report, target: Target) -> None:
    report.about("curl", _said(["curl", "--version"], _plain_environ()).split()[1])
    body = {
        "model": target.model,
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": 20,
        "temperature": 0,
    }

    def curl(path: str, *argv: str) -> str:
        return _said(["curl", "-sS", *argv, target.base_url + path], _plain_environ())

    def post(path: str, document: dict[str, Any], *argv: str) -> str:
        sent = ("-H", "Content-Type: application/json", "-d", json.dumps(document))
        return curl(path, *sent, *argv)

    with report.check("models"):
        assert target.model in {each["id"] for each in json.loads(curl("/models"))["data"]}
    with report.check("chat"):
        answer = json.loads(post("/chat/completions", body))
        assert answer["choices"][0]["message"]["content"], answer
        assert answer["usage"]["cost"] > 0, answer
    with report.check("chat, streamed with -N"):
        text = post("/chat/completions", body | {"stream": True}, "-N")
        events = [line for line in text.splitlines() if line.startswith("data: ")]
        assert events[-1] == "data: [DONE]", events[-1:]
        parts = [json.loads(event.removeprefix("data: ")) for event in events[:-1]]
        said = "".join(part["choices"][0]["delta"].get("content", "") for part in parts)
        assert said == answer["choices"][0]["message"]["content"], said
    with report.check("an error's status and body"):
        wrong = post("/chat/completions", body | {"model": "gpt-9"}, "-w", "\n%{http_code}")
        error, status = wrong.rsplit("\n", 1)
        assert (status, json.loads(error)["error"]["code"]) == ("404", "model_not_found"), wrong


def _said(command: Sequence[str], environ: dict[str, str]) -> str:
    ran = subprocess.run(
        command, capture_output=True, text=True, env=environ, timeout=COMMAND_S,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if ran.returncode != 0:
        raise RuntimeError(f"exit {ran.returncode}: {ran.stderr[-1000:]}")
    return ran.stdout


def _plain_environ() -> dict[str, str]:
    """This process's, without what is ours."""
    ours = ("GPUNODE_", "PYTHON", "OPENAI_")
    return {key: value for key, value in os.environ.items() if not key.startswith(ours)}
