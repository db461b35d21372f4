"""Change the contracts in a thousand small ways: the tests must notice each.

A mutant is *killed* if a test fails with it. One whose bytecode is that of the original, or of
an earlier mutant, is not run. Survivors must be explained in contracts/MUTANTS.md by their line of
code and change, else the exit code is 1; also when fewer than 95 of 100 are killed.

With --changed only lines that differ from a revision are changed. All of them take about an hour of
one core; --sample takes so many at random, always the same ones.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from mutants import Mutant, all_mutants

ROOT = Path(__file__).resolve().parents[2]
CONTRACTS_DIR = ROOT / "contracts"
EXPLAINED = CONTRACTS_DIR / "MUTANTS.md"
KILLED_PERCENT_MIN = 95
TEST_TIMEOUT_S = 1800
# A mutant that loops for ever is killed by the gas limit of its test, long before this: only a
# machine that has no time for the tests gets here, and that is no verdict on a mutant.
UNIT = ("--no-match-contract", "Invariants")
INVARIANTS = ("--match-contract", "Invariants")
SETTINGS = {
    "remappings": ["@openzeppelin/=node_modules/@openzeppelin/"],
    "optimizer": {"enabled": True, "runs": 10_000},
    "metadata": {"bytecodeHash": "none", "appendCBOR": False},
    "evmVersion": "prague",
}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def copy_contracts(folder: Path) -> Path:
    for name in ("src", "test", "bin", "foundry.toml"):
        source = CONTRACTS_DIR / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)
    (folder / "node_modules").symlink_to(CONTRACTS_DIR / "node_modules")
    return folder


class Tests:
    """The contracts' tests, run on whatever bytecode the artifact holds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        found = sorted((CONTRACTS_DIR / "node_modules/@foundry-rs").glob("forge-*/bin/forge"))
        if not found:
            sys.exit("mutate-contracts: forge is not installed; run scripts/setup first")
        self.forge = found[0]
        self.artifact = folder / "out" / "Escrow.sol" / "Escrow.json"

    def passed(self, selection: tuple[str, ...]) -> bool:
        # Two threads: forge would otherwise start one per core for each suite.
        command = [str(self.forge), "test", "--fail-fast", "--threads", "2", *selection]
        env = {**os.environ, "FOUNDRY_PROFILE": "mutation"}
        try:
            done = subprocess.run(
                command, cwd=self.folder, env=env, capture_output=True, timeout=TEST_TIMEOUT_S
            )
        except subprocess.TimeoutExpired:
            sys.exit(f"mutate-contracts: the tests did not end within {TEST_TIMEOUT_S} s")
        if b"Compiling" in done.stdout:
            # It would have put the original's bytecode back.
            self.compiled = True
        return done.returncode == 0

    def install(self, bytecode: str) -> None:
        content = json.loads(self.artifact.read_text())
        content["bytecode"]["object"] = bytecode
        self.artifact.write_text(json.dumps(content))

    def kill(self, bytecode: str) -> str | None:
        """Which tests fail with it: "unit", "invariants", or None."""
        self.install(bytecode)
        self.compiled = False
        killed_by = None
        if not self.passed(UNIT):
            killed_by = "unit"
        elif not self.passed(INVARIANTS):
            killed_by = "invariants"
        assert not self.compiled, "forge compiled again: the mutant was not what ran"
        return killed_by


class Compiler:
    def __init__(self, folder: Path) -> None:
        node = os.environ.get("REAL_NODE") or shutil.which("node") or sys.exit("no Node.js")
        config = CONTRACTS_DIR / "bin" / "config.sh"
        if config.is_file() and (found := re.search(r"REAL_NODE='(.+)'", config.read_text())):
            node = found.group(1)
        script = Path(__file__).with_name("compile-mutants.cjs")
        self.command = [node, "--stack-size=4000", str(script), str(folder), json.dumps(SETTINGS)]
        self.process = self.start()

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command, stdin=-1, stdout=-1, stderr=subprocess.DEVNULL, text=True
        )

    def compile(self, file: str = "", content: str = "") -> str | None:
        """The bytecode of Escrow, or None if it does not compile."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        request = {"file": file, "content": content} if file else {}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            # Some nonsense ends the compiler itself.
            self.process.wait()
            self.process = self.start()
            return None
        answer: dict[str, str] = json.loads(line)
        return answer.get("bytecode")


def lines_changed(revision: str) -> set[tuple[str, int]]:
    command = ["git", "diff", "-U0", "--relative=contracts", revision, "--", "contracts/src"]
    diff = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    changed: set[tuple[str, int]] = set()
    file = ""
    for line in diff.splitlines():
        if line.startswith("+++ b/"):
            file = line[len("+++ b/") :]
        elif found := re.match(r"@@ -\S+ \+(\d+)(?:,(\d+))? @@", line):
            first, count = int(found.group(1)), int(found.group(2) or 1)
            changed |= {(file, number) for number in range(first, first + count)}
    return changed


def shown(text: str) -> str:
    return " ".join(text.split())


def key_of(mutant: Mutant, text: str) -> str:
    """How MUTANTS.md names it: by the code, since line numbers move."""
    first = text.rfind("\n", 0, mutant.start) + 1
    last = text.find("\n", mutant.end)
    before = shown(text[first:last])
    after = shown(text[first : mutant.start] + mutant.new + text[mutant.end : last])
    return f"`{before}` → `{after}`"


class Campaign:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tests = Tests(folder)
        self.compiler = Compiler(folder)
        self.counts: Counter[str] = Counter()
        self.survivors: list[dict[str, Any]] = []
        self.explained = EXPLAINED.read_text() if EXPLAINED.is_file() else ""

    def baseline(self) -> str:
        say("tests on the original …")
        if not (self.tests.passed(UNIT) and self.tests.passed(INVARIANTS)):
            sys.exit("mutate-contracts: the tests fail on the original")
        original = self.compiler.compile()
        artifact = json.loads(self.tests.artifact.read_text())["bytecode"]["object"]
        if original is None or original != artifact:
            sys.exit("mutate-contracts: the mutants' compiler has other settings than forge")
        return original

    def run(self, mutants: list[Mutant]) -> None:
        seen = {self.baseline()}
        started = time.monotonic()
        for number, mutant in enumerate(mutants, 1):
            text = (self.folder / mutant.file).read_text()
            bytecode = self.compiler.compile(mutant.file, mutant.applied(text))
            if bytecode is None:
                self.counts["not Solidity"] += 1
            elif bytecode in seen:
                self.counts["same bytecode"] += 1
            else:
                seen.add(bytecode)
                self.judge(mutant, text, bytecode)
            if number % 25 == 0 or number == len(mutants):
                spent = time.monotonic() - started
                say(f"{number}/{len(mutants)} in {spent:.0f} s: {dict(self.counts)}")

    def judge(self, mutant: Mutant, text: str, bytecode: str) -> None:
        killed_by = self.tests.kill(bytecode)
        if killed_by:
            self.counts[f"killed by {killed_by}"] += 1
            return
        key = key_of(mutant, text)
        known = key in self.explained
        self.counts["survived, explained" if known else "survived"] += 1
        place = f"{mutant.file}:{mutant.line}"
        self.survivors.append({"at": place, "change": key, "explained": known})
        say(f"{'explained' if known else 'SURVIVED'} {place} {mutant.operator} {key}")

    def report(self) -> dict[str, Any]:
        killed = self.counts["killed by unit"] + self.counts["killed by invariants"]
        ran = killed + len(self.survivors)
        return {
            "mutants": ran,
            "killed": killed,
            "killed_percent": round(100 * killed / ran, 2) if ran else 100.0,
            "counts": dict(self.counts),
            "survivors": self.survivors,
        }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="mutate-contracts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--changed", nargs="?", const="HEAD", metavar="REVISION")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--sample", type=int, metavar="N", help="so many mutants, at random")
    parser.add_argument("--only", metavar="FILE:LINE", help="mutants of one line")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mutants-") as temporary:
        folder = copy_contracts(Path(temporary).resolve())
        campaign = Campaign(folder)
        mutants = all_mutants(folder)
        if args.changed:
            lines = lines_changed(args.changed)
            mutants = [m for m in mutants if (m.file, m.line) in lines]
        if args.only:
            mutants = [m for m in mutants if f"{m.file}:{m.line}".endswith(args.only)]
        # In no order: what is known halfway is a fair sample.
        random.Random(1).shuffle(mutants)
        mutants = mutants[: args.sample]
        say(f"{len(mutants)} mutants")
        campaign.run(mutants)
    result = campaign.report()
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        print(f"{result['killed']} of {result['mutants']} killed ({result['killed_percent']} %)")
        print(f"{sum(not s['explained'] for s in result['survivors'])} survivors not explained")
    unexplained = any(not survivor["explained"] for survivor in result["survivors"])
    return 1 if unexplained or result["killed_percent"] < KILLED_PERCENT_MIN else 0


if __name__ == "__main__":
    sys.exit(main())
