"""Model servers behind `node serve --engine openai`: probed, sold, bought from, killed, back."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import node
from devnet import homes
from devnet.network import Devnet as Net
from node.adapters import model_folder
from node.errors import ExitCode
from tests.compat.drive.driving import PROMPT
from tests.compat.environments import ROOT, python_of
from tests.compat.report import Report
from tests.e2e.conftest import Devnet
from tests.e2e.gateway_process import gateway_up
from tests.e2e.seller_process import Seller, client_of, eventually, seller_up

START_S: Final = 180.0
ANSWER_S: Final = 60.0
GONE_S: Final = 30.0
"""An offer lives 10 s, and a look at the server may be a few seconds old."""
ENDS_S: Final = 30.0
"""A job whose server was killed."""
TOKENS: Final = 40
SEED: Final = 7


@dataclass(kw_only=True)
class Server:
    """A model server that can be killed and started again."""

    model: str
    """Its name of the model."""
    port: int
    command: Sequence[str]
    environ: Mapping[str, str]
    cwd: Path
    log: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns once it lists models."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=self.cwd, env=self.environ, stdout=log, stderr=log
            )
        eventually(self._lists_models, within_s=START_S)

    def freeze(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _lists_models(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(self.url + "/v1/models", timeout=5) as response:
                return bool(json.loads(response.read())["data"])
        except OSError:
            return False


def transformers_server(folder: Path) -> Server:
    """`transformers serve` on the CPU, with a copy of the small model in a local folder.

    The folder has no manifest: to our market it is a model of its own.
    """
    model, port = "tiny-by-transformers", homes.free_port()
    (folder / model).mkdir(parents=True)
    for path in model_folder.shipped().iterdir():
        if path.suffix in (".json", ".safetensors") and path.name != model_folder.MANIFEST:
            shutil.copy(path, folder / model)
    command = [str(python_of("transformers").parent / "transformers"), "serve", model]
    command += ["--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    log = folder / "log"
    return Server(model=model, port=port, command=command, environ=environ, cwd=folder, log=log)


def gateway_server(home: Path, model: str) -> Server:
    """A second `node gateway`, which buys from the devnet's three workers."""
    port = homes.free_port()
    command = [sys.executable, "-m", "node", "gateway", "--port", str(port)]
    environ = {**os.environ, "GPUNODE_HOME": str(home)}
    log = home.with_suffix(".gateway.log")
    return Server(model=model, port=port, command=command, environ=environ, cwd=ROOT, log=log)


@contextmanager
def running(server: Server) -> Iterator[Server]:
    try:
        server.start()
        yield server
    finally:
        server.kill()


def transformers(report: Report, net: Net, folder: Path) -> None:
    """Sold on the devnet's own market, beside its three workers."""
    python = python_of("transformers")
    asked = "from importlib.metadata import version; print(version('transformers'))"
    ran = subprocess.run([str(python), "-c", asked], capture_output=True, text=True, check=True)
    report.about("transformers serve", ran.stdout.strip())
    buyer = Devnet(os.getpid(), net.to_json())
    with running(transformers_server(folder / "transformers")) as server:
        files = server.cwd / server.model
        with seller_up(
            net, folder / "seller-of-transformers", url=server.url,
            models=(f"{server.model}={files}",), bootstrap=tuple(net.bootstrap),
        ) as seller:  # fmt: skip
            Sale(report, buyer, server, seller, files).check(TRANSFORMERS)


def gateway(report: Report, net: Net, folder: Path, model: str) -> None:
    """Sold on a market of its own: whoever resells must not buy from themselves."""
    report.about("node gateway", node.__version__)
    files = model_folder.shipped()
    with running(gateway_server(net.clients[1].home, model)) as server, seller_up(
        net, folder / "seller-of-gateway", url=server.url,
        models=(f"{model}={files}",), bootstrap=(),
    ) as seller:  # fmt: skip
        client = client_of(net, folder / "client-of-gateway", bootstrap=(seller.multiaddr,))
        buyer = Devnet(os.getpid(), net.to_json() | {"client_home": str(client.home)})
        Sale(report, buyer, server, seller, files).check(GATEWAY)


TRANSFORMERS: Final = {
    "chat": True, "usage": True, "ids_in": False, "ids_out": False, "prompt_ids": False,
    "continues": False, "seed": True, "logprobs": False, "echo": False, "top_k": False,
    "repetition": False, "ignore_eos": False, "json_object": False, "json_schema": False,
    "tools": False, "embeddings": False, "dimensions": False,
}  # fmt: skip
"""It knows OpenAI's fields alone, and leaves out in silence those that it can't do."""
GATEWAY: Final = TRANSFORMERS | {
    "logprobs": True, "top_k": True, "repetition": True, "ignore_eos": True,
    "json_object": True, "json_schema": True, "tools": True,
}  # fmt: skip
"""It tells text, and can whatever its workers can."""


@dataclass
class Sale:
    """A server's way through the market."""

    report: Report
    buyer: Devnet
    server: Server
    seller: Seller
    files: Path
    """What the seller names of it."""

    def check(self, abilities: dict[str, bool]) -> None:
        """All that is checked of it; what a failure leaves undone fails as well."""
        self.report.run("is sold after its probe", self._sold)
        self.report.run("node doctor's table is right", lambda: self._doctor(abilities))
        self.report.run("node submit: its own answer, a valid receipt", self._submit)
        self.report.run("the gateway: its own answer, whole and streamed", self._gateway)
        self.report.run("killed in mid-job: the job ends, with its reason", self._killed)
        self.report.run("its offer is gone", lambda: self._offers(wanted=False))
        self.report.run("started again: its offer is back, and sells", self._back)

    def _sold(self) -> None:
        self.seller.wait_sold()
        assert {each["tier"] for each in self.seller.models().values()} == {"text"}
        self._offers(wanted=True)

    def _doctor(self, abilities: dict[str, bool]) -> None:
        named = ("--url", self.server.url, "--model", f"{self.server.model}={self.files}")
        ran = self.buyer.node("doctor", "--json", *named, home=self.seller.home)
        assert ran.code == 0, ran.out
        [model] = [check["model"] for check in ran.json["checks"] if "model" in check]
        found = {name: trial["has"] for name, trial in model["abilities"].items()}
        assert found == abilities, {
            name: trial for name, trial in model["abilities"].items()
            if trial["has"] != abilities.get(name)
        }  # fmt: skip
        assert (model["name"], model["tier"]) == (self.server.model, "text"), model
        assert model["why"].startswith("no exact token ids"), model

    def _submit(self) -> None:
        result = self.buyer.submit(
            "--model", self.server.model, "--worker", self.seller.address, "--temperature", "0",
            "--seed", str(SEED), "--max-tokens", str(TOKENS), PROMPT,
        )  # fmt: skip
        assert result["text"] == self._direct(), result["text"]
        assert result["finish_reason"] in ("stop", "length"), result["finish_reason"]
        assert result["amount_micro"] > 0
        self._verify(result["receipt"])

    def _gateway(self) -> None:
        log = self.seller.identity.home.with_suffix(".buyer.log")
        with gateway_up(self.buyer.ready["client_home"], log) as front:
            wanted = {"provider": {"only": [self.seller.address]}}
            whole = self._ask(front.url, self.server.model, **wanted)
            text = whole["choices"][0]["message"]["content"]
            assert text == self._direct(), text
            events = _post(
                front.url, self._body(self.server.model) | wanted | {"stream": True}
            ).decode()
            parts = [json.loads(e[6:]) for e in events.splitlines() if e.startswith("data: {")]
            streamed = "".join(p["choices"][0]["delta"].get("content", "") for p in parts)
            assert streamed == text, streamed
        self._verify(whole["x_receipt"])

    def _verify(self, receipt: str) -> None:
        ran = self.buyer.node("receipts", "verify", receipt)
        assert ran.code == 0, ran.out + ran.err

    def _killed(self) -> None:
        """Frozen first, so that the job is under way whatever the server's speed."""
        self.server.freeze()
        process = self.buyer.start(
            "submit",
            "--json",
            "--model",
            self.server.model,
            "--worker",
            self.seller.address,
            PROMPT,
        )
        eventually(self.seller.active, within_s=ANSWER_S)
        began_s = time.monotonic()
        self.server.kill()
        out, err = process.communicate(timeout=ENDS_S)
        # 69 where not one token had come: then it was never this worker's job.
        assert process.returncode in (ExitCode.TRY_AGAIN, ExitCode.NO_PEERS), (out, err)
        assert "Traceback" not in err, err
        assert "error: " in err or json.loads(out)["failure"], (out, err)
        assert time.monotonic() - began_s < ENDS_S
        eventually(lambda: self.seller.active() == 0, within_s=ANSWER_S)

    def _back(self) -> None:
        self.server.start()
        self.seller.wait_sold()
        self._offers(wanted=True)
        self._submit()

    def _offers(self, *, wanted: bool) -> None:
        eventually(lambda: self._offered() is wanted, within_s=GONE_S)

    def _offered(self) -> bool:
        ran = self.buyer.node("market", "--once", "--json")
        rows = [] if ran.code == ExitCode.NO_PEERS else ran.json
        return any(row["worker"] == self.seller.address for row in rows)

    def _body(self, model: str) -> dict[str, Any]:
        messages = [{"role": "user", "content": PROMPT}]
        return {
            "model": model, "messages": messages, "max_tokens": TOKENS, "temperature": 0,
            "seed": SEED,
        }  # fmt: skip

    def _ask(self, url: str, model: str, **more: Any) -> Any:
        return json.loads(_post(url, self._body(model) | more))

    def _direct(self) -> str:
        answer = self._ask(self.server.url, self.server.model)
        text: str = answer["choices"][0]["message"]["content"]
        assert text
        return text


def _post(url: str, body: dict[str, Any]) -> bytes:
    request = urllib.request.Request(
        url + "/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_S) as response:
            data: bytes = response.read()
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{error}: {error.read().decode(errors='replace')}") from None
    return data
