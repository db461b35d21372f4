"""20: what a prompt, a system text, an answer, a key and a password leave behind."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from devnet import homes, processes
from devnet.chain import HOST, Funding
from devnet.processes import NodeProcess
from node.adapters import keystore
from node.app.init import PASSWORD_FILE, Identity, InitRequest, create
from node.app.receipts import DISCLOSURE_SUFFIX, TRANSCRIPT_SUFFIX
from node.app.unlock import session_key
from node.config import load
from node.protocol import codec, transcript
from node.units import MICRO_PER_UNIT
from tests.attack import needles as looking
from tests.attack.accounts import MONEY, funded
from tests.attack.harness import NICE, ROOT, Figures, World, at_least, at_most
from tests.attack.needles import Needles, ProcessWatch

COMMAND_S: Final = 120.0
TOKENS: Final = 40
ENDS_S: Final = 30.0
WORKER_POINTS: Final = ("none", "worker", "worker-check", "worker-abort")
CLIENT_POINTS: Final = ("none", "client", "client-abort")
READING: Final = (("status",), ("earnings",), ("wallet", "show"), ("receipts", "list"))


class Canary:
    """Real commands at debug level, core files allowed, and roles that break in mid-job."""

    number = 20
    name = "canaries"
    target = "canary prompt and key: 0 hits in logs, databases, tracebacks, command lines"
    options = MONEY

    def run(self, world: World) -> Figures:
        """See the class."""
        scene = _Scene(world, world.scratch / f"canary-{time.monotonic_ns()}")
        with ProcessWatch(scene.needles) as watch:
            for point in WORKER_POINTS if world.full else WORKER_POINTS[:2]:
                scene.serve(point, _clients(point, whole=world.full))
        scene.learn()
        hits = sorted({(str(path), name) for path, name in scene.hits()})
        return Figures(
            checks=(
                at_least("jobs with an answer", len(scene.answers), 1),
                at_least("tracebacks", scene.tracebacks(), world.count(4, 2)),
                at_least("malformed requests", len(scene.malformed), 6),
                at_least("looks at all processes", watch.looks, 10),
                at_least("files", scene.files(), 10),
                at_most("hits in files", len(hits), 0),
                at_most("hits in command lines and environments", len(watch.hits), 0),
                at_most("core files", len(scene.cores()), 0),
                at_least("found where they belong", scene.control(), 3),
            ),
            details={
                "hits": hits,
                "process_hits": sorted(watch.hits),
                "cores": scene.cores(),
                "malformed": scene.malformed,
                "core_files_possible": scene.cores_possible,
            },
        )


def _clients(point: str, *, whole: bool) -> tuple[str, ...]:
    if point != "none":
        return ("none",)
    return CLIENT_POINTS if whole else CLIENT_POINTS[::2]


@dataclass(slots=True)
class _Scene:
    """A worker and a client of its own, and everything that they leave behind."""

    world: World
    folder: Path
    needles: Needles = field(default_factory=dict)
    answers: list[str] = field(default_factory=list)
    malformed: dict[str, str] = field(default_factory=dict)
    worker: Identity = field(init=False)
    client: Identity = field(init=False)
    port: int = field(init=False)
    cores_possible: bool = False
    _prompt: str = field(init=False)
    _system: Path = field(init=False)
    _password: bytes = field(init=False)

    def __post_init__(self) -> None:
        for name in ("out", "cwd", "private"):
            (self.folder / name).mkdir(parents=True)
        texts = {name: f"{name}{os.urandom(16).hex()}" for name in ("prompt", "system", "password")}
        self._password = texts["password"].encode()
        self._prompt = f"What is a voucher, {texts['prompt']}?"
        self._system = self.folder / "private" / "system"
        self._system.write_text(f"Be brief, {texts['system']}.")
        self.port = homes.free_port()
        self.worker, self.client = self._homes()
        chain = self.world.net.chain
        chain.fund(
            [
                Funding(address=self.worker.address),
                Funding(address=self.client.address, deposit_micro=MICRO_PER_UNIT),
            ]
        )
        chain.mine(2)
        self.needles |= {name: looking.text_forms(text) for name, text in texts.items()}
        for name, home in (("worker key", self.worker.home), ("client key", self.client.home)):
            self.needles[name] = looking.secret_forms(session_key(load(home)))
        self.cores_possible = self._core_control()

    def serve(self, point: str, clients: tuple[str, ...]) -> None:
        """A worker that breaks at a point, and clients that buy from it."""
        with self._serving(point) as process:
            for number, client in enumerate(clients):
                self._submit(f"{point}-{client}", client)
                if number == 0 and point != "none":
                    process.wait(ENDS_S)
            if point == "none":
                self._say_nonsense()
                self._errors()
                for command in READING if self.world.full else ():
                    self._command("-".join(command), "none", *command)
                self._command("worker-status", "none", "status", home=self.worker.home)

    def learn(self) -> None:
        """What was answered, and the ids of all that was said: they must not be found either."""
        for number, answer in enumerate(self.answers):
            self.needles[f"answer {number}"] = looking.text_forms(answer)
        for number, path in enumerate(self._kept(DISCLOSURE_SUFFIX)):
            shown = transcript.read_disclosure(path.read_bytes())
            request = codec.decode_request(shown.requests[0])
            ids = codec.unpack_ids(request.prompt)
            self.needles[f"prompt ids {number}"] = looking.ids_forms(ids[len(ids) // 2 :])
            output = codec.unpack_ids(shown.output)
            self.needles[f"output ids {number}"] = looking.ids_forms(output)

    def hits(self) -> Iterator[tuple[Path, str]]:
        """In every file but those that are there to hold it."""
        own = {self.worker.home / PASSWORD_FILE, self.client.home / PASSWORD_FILE, self._system}
        secrets = {"password", "worker key", "client key"}
        for path, name in looking.in_files([self.folder], self.needles):
            answer = path.suffix in (DISCLOSURE_SUFFIX, ".stdout") and name not in secrets
            if path not in own and not answer:
                yield path, name

    def control(self) -> int:
        """How many needles are found where they do belong: the search finds what is there."""
        found = set()
        for path, name in looking.in_files([self.folder], self.needles):
            if path.suffix == DISCLOSURE_SUFFIX or path.name == PASSWORD_FILE:
                found.add(name.split()[0])
        return len(found)

    def files(self) -> int:
        """Looked through."""
        return sum(path.is_file() for path in self.folder.rglob("*"))

    def tracebacks(self) -> int:
        """Printed by what was broken."""
        logs = [*self.folder.rglob("*.log"), *self.folder.rglob("*.stderr")]
        return sum("Traceback" in path.read_text(errors="replace") for path in logs)

    def cores(self) -> list[str]:
        """Left by what was aborted."""
        return [str(path) for path in (self.folder / "cwd").iterdir()]

    # ---------------------------------------------------------------------------------- inside

    @contextmanager
    def _serving(self, point: str) -> Iterator[NodeProcess]:
        process = NodeProcess(
            self._shell(point, "serve", home=self.worker.home),
            home=self.worker.home,
            log=self.folder / "out" / f"worker-{point}.log",
        )
        try:
            process.wait_ready(time.monotonic() + processes.READY_S)
            yield process
        finally:
            processes.stop_all([process])

    def _submit(self, name: str, point: str) -> None:
        ran = self._command(
            f"submit-{name}", point, "submit", "--json", "--system-file", str(self._system),
            "--max-tokens", str(TOKENS), "--ignore-eos", "--temperature", "2",
            stdin=self._prompt,
        )  # fmt: skip
        if ran.returncode == 0:
            answer = str(json.loads(ran.stdout)["text"])
            assert len(answer) >= looking.WINDOW, answer
            self.answers.append(answer)

    def _errors(self) -> None:
        """Commands that can't end well, with a traceback where one is asked for."""
        folder = self.client.home / "transcripts"
        folder.rename(folder.with_name("kept"))
        folder.touch()
        try:
            self._command("no-place", "none", "submit", "-", stdin=self._prompt, debug=True)
        finally:
            folder.unlink()
            folder.with_name("kept").rename(folder)
        if not self.world.full:
            return
        nobody = "0x" + "11" * 20
        self._command(
            "nobody", "none", "submit", "--worker", nobody, "-", stdin=self._prompt, debug=True
        )
        kept = self._kept(TRANSCRIPT_SUFFIX)
        self._command("verify", "none", "receipts", "verify", str(kept[0]))
        self._command("show", "none", "receipts", "show", "--json", str(kept[0]))

    def _say_nonsense(self) -> None:
        (key,) = funded(self.world, 1)
        attacker = self.world.start(
            "canary_hand",
            key=key.hex(),
            canary=self._prompt[-40:],
            victim=homes.multiaddr(self.worker, self.port),
            worker="0x" + self.worker.address.hex(),
        )
        self.malformed = attacker.result()["answers"]

    def _command(
        self, name: str, point: str, *argv: str, stdin: str = "", home: Path | None = None,
        debug: bool = False,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Run it; its stderr is kept to be searched, and its stdout for what belongs to nobody."""
        command = self._shell(point, *argv, home=home or self.client.home, debug=debug)
        ran = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=COMMAND_S, check=False
        )
        stdout = ".stdout" if argv[0] == "submit" else ".output"
        (self.folder / "out" / f"{name}{stdout}").write_text(ran.stdout)
        (self.folder / "out" / f"{name}.stderr").write_text(ran.stderr)
        return ran

    def _shell(self, point: str, *argv: str, home: Path, debug: bool = False) -> list[str]:
        environ = {"GPUNODE_LOG": "debug", "GPUNODE_HOME": str(home), "PYTHONPATH": str(ROOT)}
        if debug:
            environ["GPUNODE_DEBUG"] = "1"
        program = [sys.executable, "-m", "tests.attack.attackers.failing", point, *argv]
        words = ["env", *(f"{k}={v}" for k, v in environ.items()), *program]
        script = f"cd {self.folder / 'cwd'}; ulimit -c unlimited; exec {shlex.join(words)}"
        return ["nice", "-n", str(NICE), "sh", "-c", script]

    def _homes(self) -> tuple[Identity, Identity]:
        net = self.world.net
        chain = homes.chain_settings(net.rpc_url, net.contracts)
        listen = [f"/ip4/{HOST}/tcp/{self.port}"]
        quick: dict[str, Any] = {"engine.tokens_per_s_max": 200.0, "worker.drain_s": 1.0}
        seller = {**chain, **MONEY.worker_settings, **quick, "network.listen": listen}
        worker = self._create("worker", {**seller, "network.bootstrap": []})
        bootstrap = [homes.multiaddr(worker, self.port)]
        buyer = {**chain, "network.listen": [], "network.bootstrap": bootstrap}
        return worker, self._create("client", {**buyer, "client.silence_s": 3.0})

    def _create(self, name: str, settings: dict[str, Any]) -> Identity:
        return create(
            InitRequest(
                home=self.folder / name,
                password=self._password,
                store_password=True,
                settings=settings,
                scrypt_n=keystore.SCRYPT_N_DEVNET,
            )
        )

    def _kept(self, suffix: str) -> list[Path]:
        return sorted((self.client.home / "transcripts").glob(f"*{suffix}"))

    def _core_control(self) -> bool:
        """Whether a program that does not forbid it would leave a core file here."""
        control = self.folder.with_name(f"{self.folder.name}-control")
        control.mkdir()
        subprocess.run(
            ["sh", "-c", f"cd {control}; ulimit -c unlimited; kill -ABRT $$"], check=False
        )
        return any(control.iterdir())
