"""`scripts/test-compat`: see there."""

import argparse
import json
import sys
import tempfile
import urllib.request
from pathlib import Path

from devnet.network import Options, up
from tests.compat import backends
from tests.compat.drive.driving import Target
from tests.compat.embeddings import embeddings
from tests.compat.programs import drive, programs
from tests.compat.report import Report
from tests.e2e.gateway_process import gateway_up

PARTS = ("programs", "formats", "transformers", "gateway", "embeddings")


def main() -> int:
    """The exit code: 1 if a check failed."""
    parser = argparse.ArgumentParser(prog="scripts/test-compat", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parts = parser.parse_args().parts or PARTS
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    report = Report()
    with (
        tempfile.TemporaryDirectory(prefix="gpunode-compat-") as temporary,
        up(Options(workers=3, clients=2)) as net,
    ):
        folder = Path(temporary)
        with gateway_up(str(net.client_home), folder / "gateway.log") as gateway:
            target = Target(gateway.base_url, _model(gateway.base_url))
            if "programs" in parts:
                programs(report, target, folder)
            if "formats" in parts:
                drive(report, "openai", "tests.compat.formats", target)
        if "transformers" in parts:
            backends.transformers(report, net, folder)
        if "gateway" in parts:
            backends.gateway(report, net, folder, target.model)
        if "embeddings" in parts:
            embeddings(report, net, folder)
    return report.end()


def _model(base_url: str) -> str:
    """What the devnet's workers sell."""
    with urllib.request.urlopen(base_url + "/models", timeout=60) as response:
        name: str = json.loads(response.read())["data"][0]["id"]
    return name


if __name__ == "__main__":
    sys.exit(main())
