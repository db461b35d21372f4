"""`node doctor` on a model server: what it can do, what is wrong with it, and how to mend that."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from devnet.homes import free_port
from node.adapters import model_folder
from node.app.findings import Finding
from node.errors import ExitCode
from tests.adapters.openai import embedder
from tests.adapters.openai.process import EMBEDDER, Backend, backend_up
from tests.adapters.openai.server import NAME

MODEL = f"{NAME}={model_folder.shipped()}"
OF_IDS = {
    "chat": True, "usage": True, "ids_in": True, "ids_out": True, "prompt_ids": True,
    "continues": True, "seed": True, "logprobs": False, "echo": False, "top_k": True,
    "repetition": True, "ignore_eos": True, "json_object": False, "json_schema": False,
    "tools": False, "embeddings": False, "dimensions": False,
}  # fmt: skip
OF_TEXT = OF_IDS | {"ids_in": False, "ids_out": False, "prompt_ids": False, "continues": False}


@pytest.fixture(scope="module")
def ids_server() -> Iterator[Backend]:
    with backend_up() as backend:
        yield backend


def doctor(tmp_path: Path, *argv: str) -> tuple[int, str]:
    """The command, without a home; its exit code and what it prints."""
    ran = subprocess.run(
        [sys.executable, "-m", "node", "doctor", *argv],
        env={**os.environ, "GPUNODE_HOME": str(tmp_path / "none")},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "Traceback" not in ran.stderr
    return ran.returncode, ran.stdout


def checks(tmp_path: Path, *argv: str) -> dict[str, Finding]:
    """By name, of what is said of the server."""
    code, out = doctor(tmp_path, "--json", *argv)
    assert code == ExitCode.FAILED, "there is no home"
    found = [Finding(**check) for check in json.loads(out)["checks"]]
    return {each.name: each for each in found if each.name in ("server", "model")}


def table(finding: Finding) -> dict[str, bool]:
    assert finding.model is not None
    abilities: dict[str, Any] = finding.model["abilities"]
    return {name: trial["has"] for name, trial in abilities.items()}


def test_a_server_of_ids(tmp_path: Path, ids_server: Backend) -> None:
    found = checks(tmp_path, "--url", ids_server.url, "--model", MODEL)
    assert found["server"].status == found["model"].status == "ok"
    assert NAME in found["server"].detail
    assert table(found["model"]) == OF_IDS
    assert found["model"].model is not None
    assert found["model"].model["tier"] == "ids"


def test_a_server_of_text_as_people_read_it(tmp_path: Path) -> None:
    with backend_up("--text") as backend:
        found = checks(tmp_path, "--url", backend.url, "--model", MODEL)["model"]
        _, out = doctor(tmp_path, "--url", backend.url, "--model", MODEL)
    assert table(found) == OF_TEXT
    assert f"ok       model         {NAME}: tier text: no exact token ids" in out
    assert "yes  answers conversations\n" in out
    assert "no   takes token ids" in out
    assert "400: " in out


def test_a_server_of_embeddings(tmp_path: Path) -> None:
    tokenizer = model_folder.shipped() / "tokenizer.json"
    named = f"{embedder.NAME}={tokenizer}"
    with backend_up(module=EMBEDDER) as backend:
        found = checks(tmp_path, "--url", backend.url, "--model", named)["model"]
    has = [ability for ability, yes in table(found).items() if yes]
    assert has == ["embeddings", "dimensions"]
    assert found.status == "ok"
    assert "makes embeddings" in found.detail


def test_a_model_has_to_be_named_and_listed(tmp_path: Path, ids_server: Backend) -> None:
    unnamed = checks(tmp_path, "--url", ids_server.url)["model"]
    assert (unnamed.status, f"--model {NAME}=PATH" in unnamed.fix) == ("problem", True)
    other = MODEL.replace(NAME, "llama")
    unlisted = checks(tmp_path, "--url", ids_server.url, "--model", other)["model"]
    assert (unlisted.status, "lists no such model" in unlisted.detail) == ("problem", True)
    nothing = f"{NAME}={tmp_path / 'none'}"
    no_file = checks(tmp_path, "--url", ids_server.url, "--model", nothing)["model"]
    assert (no_file.status, "no tokenizer.json" in no_file.detail) == ("problem", True)


def test_a_key_that_is_wanted(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("sesame\n")
    with backend_up("--key", "sesame") as backend:
        at = ("--url", backend.url, "--model", MODEL)
        without = checks(tmp_path, *at)
        assert without["server"].status == "problem"
        assert "401" in without["server"].detail
        assert "--key-file" in without["server"].fix
        key.chmod(0o644)
        open_to_all = checks(tmp_path, *at, "--key-file", str(key))["server"]
        assert "chmod 600" in open_to_all.fix
        key.chmod(0o600)
        assert checks(tmp_path, *at, "--key-file", str(key))["model"].status == "ok"


class _Elsewhere(BaseHTTPRequestHandler):
    """A web server that knows nothing of models."""

    def do_GET(self) -> None:
        self.send_response(404 if self.path.startswith("/v1") else 200)
        self.end_headers()
        self.wfile.write(b"<html>nothing here</html>")

    def log_message(self, *_: object) -> None:
        pass


def test_no_server_or_another_one(tmp_path: Path) -> None:
    nobody = checks(tmp_path, "--url", f"http://127.0.0.1:{free_port()}", "--model", MODEL)
    assert nobody.keys() == {"server"}
    assert "can't be reached" in nobody["server"].detail
    assert nobody["server"].fix.startswith("start the server")
    with HTTPServer(("127.0.0.1", 0), _Elsewhere) as web:
        Thread(target=web.serve_forever, daemon=True).start()
        other = checks(tmp_path, "--url", f"http://127.0.0.1:{web.server_port}")["server"]
        web.shutdown()
    assert "404" in other.detail
    assert "before /v1" in other.fix
    wrong = checks(tmp_path, "--url", "localhost:8000")["server"]
    assert (wrong.status, "http" in wrong.detail) == ("problem", True)
