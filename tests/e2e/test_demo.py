"""`scripts/demo`: a newcomer's first command."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.e2e.test_devnet_up import alive, descendants

ROOT = Path(__file__).resolve().parents[2]
DEMO_S = 240

pytestmark = [pytest.mark.devnet, pytest.mark.timeout(300)]


def test_shows_the_main_job_and_leaves_nothing() -> None:
    with subprocess.Popen(
        [ROOT / "scripts" / "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as demo:
        assert demo.stdout is not None
        family: set[int] = set()
        lines = []
        for line in demo.stdout:
            lines.append(line)
            if line.startswith("$ node submit"):
                family = descendants(demo.pid)
        assert demo.wait(DEMO_S) == 0, "".join(lines)
    shown = "".join(lines)
    assert len(family) >= 4, "the chain and three workers"
    assert alive(family) == set()
    assert re.search(r"^awarded to 0x\w{40}: .*score", shown, re.MULTILINE)
    assert re.search(r"^Verified\.", shown, re.MULTILINE)
    assert re.search(r"^0x[0-9a-f]{64}  block \d+  1 vouchers", shown, re.MULTILINE)
    assert re.search(r"^client +100\.000000 +99\.\d{6} +-0\.\d{6}$", shown, re.MULTILINE)
