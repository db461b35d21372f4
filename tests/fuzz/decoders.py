"""The decoders, each with what valid input looks like and which errors it may raise."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import trio

from node import config
from node.adapters import keystore
from node.adapters.model_folder import shipped
from node.adapters.p2p import host
from node.adapters.p2p.framing import FrameReader
from node.adapters.p2p.identity import (
    address_of_peer_id,
    address_of_peer_id_text,
    peer_id_of_key,
)
from node.adapters.p2p.transport import parse_peer_addrs
from node.adapters.text.chat import ChatText
from node.app import control, receipts
from node.errors import (
    ConfigError,
    DecodeError,
    NodeError,
    PeerError,
    SessionLost,
    UsageError,
    WalletError,
)
from node.protocol import codec, embeddings, logprobs, manifest, transcript
from node.protocol.announcements import networks_of
from node.protocol.chat import Chat, ChatMessage
from node.protocol.disclosure_checks import open_disclosure
from node.protocol.embeddings import Inputs
from node.protocol.frames import Request
from node.protocol.manifest import FileRole
from node.protocol.transcript_verify import verify
from tests.attack.attackers.mutations import valid_frames
from tests.protocol import strategies
from tests.protocol.market_samples import DOMAIN as MARKET
from tests.protocol.market_samples import announcement, key_of
from tests.protocol.test_codec import sample

VECTORS = Path(__file__).resolve().parents[1] / "vectors"
PASSWORD = b"correct horse"
PEER = "/ip4/127.0.0.1/tcp/4321/p2p/16Uiu2HAmGCErKi1wb5bBWmRXAysBpgtbubwRXqAb9UHB9KCYni85"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """One of them."""

    name: str
    decode: Callable[[bytes], Any]
    valid: tuple[bytes, ...]
    """What mutations start from."""
    errors: tuple[type[BaseException], ...] = (DecodeError,)
    """What it may raise; everything else is a fault."""


@cache
def decoders() -> dict[str, Decoder]:
    """All of them, by name."""
    made = (*_wire(), *_files(), *_models(), *_addresses(), *_local())
    return {each.name: each for each in made}


def _wire() -> list[Decoder]:
    frames = tuple(codec.encode(frame) for frame in valid_frames().values())
    framed = tuple(codec.pack_length(len(each)) + each for each in frames)
    signed = [
        Decoder(
            name=f"signed {cls.__name__}",
            decode=partial(codec.decode_signed, cls),
            valid=(b"\x92" + codec.encode_struct(sample(cls)) + b"\xc4\x40" + bytes(64),),
        )
        for cls in strategies.STATEMENTS
    ]
    gossiped = codec.encode_struct(_signed_announcement())
    return [
        Decoder(name="frame", decode=codec.decode_frame, valid=frames),
        Decoder(
            name="stream of frames",
            decode=_read_stream,
            valid=(*framed, b"".join(framed)),
            errors=(DecodeError, SessionLost),
        ),
        Decoder(
            name="request", decode=codec.decode_request, valid=(codec.encode(sample(Request)),)
        ),
        Decoder(name="gossip", decode=_gossip, valid=(gossiped,), errors=()),
        Decoder(name="ids", decode=codec.unpack_ids, valid=(codec.pack_ids((1, 2, 3)),)),
        Decoder(name="length", decode=codec.unpack_length, valid=(codec.pack_length(7),)),
        *_text(),
        Decoder(
            name="log probabilities",
            decode=lambda data: logprobs.decode(data, len(data) % 4),
            valid=(b"\xbf\x80\x00\x00\x01" + bytes(4) + b"\xbf\x80\x00\x00",),
        ),
        *signed,
    ]


def _text() -> list[Decoder]:
    asked = Chat(messages=(ChatMessage(role="user", content="x"),))
    inputs = Inputs(texts=("x", "y"), dimensions=2)
    vectors = "".join(embeddings.written([[1.0, 2.0], [0.5, -1.0]]))
    return [
        Decoder(
            name="prompt of text",
            decode=embeddings.decode,
            valid=(asked.encode(), inputs.encode()),
        ),
        Decoder(
            name="vectors",
            decode=lambda data: embeddings.read(data.decode(errors="replace"), inputs),
            valid=(vectors.encode(),),
        ),
    ]


def _files() -> list[Decoder]:
    vectors = json.loads((VECTORS / "transcripts.json").read_text())["valid"]
    sealed = tuple(bytes.fromhex(each["transcript"][2:]) for each in vectors)
    disclosed = tuple(
        bytes.fromhex(each["disclosure"][2:]) for each in vectors if each.get("disclosure")
    )
    job = transcript.read(sealed[0]).transcript

    def verified(data: bytes) -> None:
        verify(data, disclosed[0] if disclosed else None)

    def receipt_file(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "job.transcript"
            path.write_bytes(data)
            verdict = receipts.verify_file(path)
            json.dumps(receipts.verdict_json(verdict))
            list(receipts.verdict_lines(verdict))
            receipts.transcript_json(receipts.read(path))

    return [
        Decoder(name="transcript", decode=transcript.read, valid=sealed),
        Decoder(name="verified transcript", decode=verified, valid=sealed, errors=()),
        Decoder(name="receipt file", decode=receipt_file, valid=sealed, errors=(NodeError,)),
        Decoder(name="disclosure", decode=transcript.read_disclosure, valid=disclosed or (b"",)),
        Decoder(
            name="verified disclosure",
            decode=lambda data: open_disclosure(job, data),
            valid=disclosed or (b"",),
            errors=(PeerError,),
        ),
    ]


def _models() -> list[Decoder]:
    root = shipped()
    tokenizer = (root / "tokenizer.json").read_bytes()
    settings = (root / "tokenizer_config.json").read_bytes()
    small = _small_tokenizer(tokenizer)
    described = (root / "manifest.json").read_bytes()

    def chat(files: dict[FileRole, bytes]) -> None:
        text = ChatText.of(files)
        ids = text.encode("What is a voucher?")
        text.decode(ids[:50])
        text.decode((0, 1, 2**31, 2**32 - 1))
        if text.has_template:
            text.render([{"role": "user", "content": "What?"}])

    def template(data: bytes) -> None:
        chat({FileRole.TOKENIZER: small, FileRole.CHAT_TEMPLATE: data})

    templates = (
        b"{% for m in messages %}{{ m['role'] ~ m.content | trim }}{% endfor %}",
        b"{{ ('x' * 9) ~ messages|length ~ range(5)|list ~ bos_token|default('') }}",
        b"{%- set ns = namespace(a=[]) -%}{% macro f(x) %}{{ x|tojson }}{% endmacro %}{{ f(5) }}",
    )
    return [
        Decoder(name="manifest", decode=manifest.decode, valid=(described,), errors=(PeerError,)),
        Decoder(
            name="tokenizer",
            decode=lambda data: chat({FileRole.TOKENIZER: data}),
            valid=(small,),
            errors=(PeerError,),
        ),
        Decoder(
            name="tokenizer config",
            decode=lambda data: chat({FileRole.TOKENIZER: small, FileRole.TOKENIZER_CONFIG: data}),
            valid=(settings, b'{"chat_template": [{"name": "default", "template": "x"}]}'),
            errors=(PeerError,),
        ),
        Decoder(name="chat template", decode=template, valid=templates, errors=(PeerError,)),
    ]


def _addresses() -> list[Decoder]:
    def text(function: Callable[[str], Any]) -> Callable[[bytes], Any]:
        return lambda data: function(data.decode("utf-8", errors="replace"))

    addrs = (PEER.encode(), b"/ip6/::1/tcp/1/p2p/" + PEER.rpartition("/")[2].encode())
    listens = (b"/ip4/0.0.0.0/tcp/4321", b"/dns4/example.com/tcp/1")
    ids = (PEER.rpartition("/")[2].encode(),)
    return [
        Decoder(
            name="peer addresses",
            decode=text(lambda each: parse_peer_addrs(each.split("\n"))),
            valid=addrs,
            errors=(PeerError,),
        ),
        Decoder(
            name="listening address",
            decode=text(lambda each: host._parse([each])),
            valid=listens,
            errors=(ConfigError,),
        ),
        Decoder(
            name="networks",
            decode=text(lambda each: networks_of([each])),
            valid=(*addrs, *listens),
            errors=(),
        ),
        Decoder(
            name="PeerID", decode=text(address_of_peer_id_text), valid=ids, errors=(PeerError,)
        ),
        Decoder(
            name="PeerID bytes",
            decode=address_of_peer_id,
            valid=(peer_id_of_key(key_of(1)),),
            errors=(PeerError,),
        ),
    ]


def _local() -> list[Decoder]:
    sealed = keystore.seal(key=key_of(1), password=PASSWORD, scrypt_n=2)
    request = b'{"method": "status", "parameters": {}}\n'
    settings = b'[network]\nlisten = ["/ip4/0.0.0.0/tcp/1"]\n[worker]\nprice_in = 5\nsplits = []\n'
    return [
        Decoder(
            name="keystore",
            decode=_in_file(lambda path: keystore.unlock(path, PASSWORD)),
            valid=(json.dumps(sealed).encode(),),
            errors=(ConfigError, WalletError),
        ),
        Decoder(
            name="keystore address",
            decode=_in_file(keystore.address),
            valid=(json.dumps(sealed).encode(),),
            errors=(ConfigError, WalletError),
        ),
        Decoder(
            name="password file",
            decode=_in_file(keystore.read_password),
            valid=(b"secret\n",),
            errors=(ConfigError, WalletError),
        ),
        Decoder(name="control request", decode=_control, valid=(request,), errors=()),
        Decoder(
            name="config file",
            decode=_in_file(lambda path: config.load(path.parent), name=config.FILE_NAME),
            valid=(settings,),
            errors=(ConfigError, UsageError),
        ),
    ]


def _gossip(data: bytes) -> bool:
    """As the topic's validator asks it: never an error."""
    from node.adapters.p2p.discovery import Libp2pDiscovery, topic_of

    discovery = Libp2pDiscovery.__new__(Libp2pDiscovery)
    discovery._accept = lambda _: True
    return discovery._belongs(topic_of(b"m" * 32), data)


def _read_stream(data: bytes) -> None:
    """In pieces, to the end."""

    class Pieces:
        def __init__(self) -> None:
            self.left = data

        async def read(self) -> bytes:
            if not self.left:
                raise SessionLost("the end")
            piece, self.left = self.left[:997], self.left[997:]
            return piece

    async def all_frames() -> None:
        reader = FrameReader(Pieces())  # type: ignore[arg-type]
        while True:
            await reader.frames()

    trio.run(all_frames)


def _control(line: bytes) -> None:
    async def status(parameters: Any) -> Any:
        return {"parameters": len(parameters) if isinstance(parameters, dict) else 0}

    reply = trio.run(control._handle, *control._request(line), {"status": status})
    json.dumps(reply)


def _in_file(use: Callable[[Path], Any], name: str = "file") -> Callable[[bytes], Any]:
    def decode(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(data)
            path.chmod(0o600)
            use(path)

    return decode


def _signed_announcement() -> Any:
    from node.protocol import signing

    return signing.sign(announcement(1, model=b"m" * 32), MARKET, key_of(1))


def _small_tokenizer(full: bytes) -> bytes:
    """The shipped one with a few dozen words: mutations reach its structure."""
    document = json.loads(full)
    model = document["model"]
    kept = dict(list(model["vocab"].items())[:40])
    model["vocab"] = kept
    model["merges"] = []
    document["added_tokens"] = [t for t in document.get("added_tokens", ()) if t["id"] < 40]
    return json.dumps(document).encode()
