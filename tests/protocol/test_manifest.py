"""Manifests: one encoding, strict bounds, and the id that follows."""

import contextlib
import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import DecodeError
from node.protocol import manifest as manifests
from node.protocol.manifest import FileRole, Manifest, ModelFile


def file(path: str, role: FileRole, size: int = 10) -> ModelFile:
    return ModelFile(path=path, role=role, sha256=hashlib.sha256(path.encode()).digest(), size=size)


TINY = Manifest(
    name="tiny chat",
    architecture="llama",
    precision="float32",
    context=2048,
    vocab=100,
    licence="Apache-2.0",
    eos_ids=(0, 7),
    files=(
        file("chat_template.jinja", FileRole.CHAT_TEMPLATE),
        file("onnx/model.onnx", FileRole.GRAPH),
        file("onnx/model.onnx_data", FileRole.WEIGHTS, 2**40),
        file("tokenizer.json", FileRole.TOKENIZER),
    ),
)


def changed(**changes: Any) -> bytes:
    document = json.loads(TINY.encode()) | changes
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def changed_file(**changes: Any) -> bytes:
    files = json.loads(TINY.encode())["files"]
    return changed(files=[files[0] | changes, *files[1:]])


def test_it_comes_back() -> None:
    assert manifests.decode(TINY.encode()) == TINY


def test_the_id_is_the_hash_of_the_bytes() -> None:
    assert TINY.model_id == hashlib.sha256(TINY.encode()).digest()


def test_the_bytes_do_not_change_between_versions() -> None:
    small = replace(TINY, files=(file("m", FileRole.GRAPH),), eos_ids=())
    assert small.encode() == (
        b'{"architecture":"llama","context":2048,"eos_ids":[],"files":[{"path":"m","role":"graph",'
        b'"sha256":"62c66a7a5dd70c3146618063c344e531e6d4b59e379808443ce962b3abd63c5a","size":10}],'
        b'"format":"gpu-market/model/1","licence":"Apache-2.0","name":"tiny chat",'
        b'"precision":"float32","vocab":100}'
    )


def test_clients_need_tokenizer_and_template_only() -> None:
    assert [f.path for f in TINY.client_files] == ["chat_template.jinja", "tokenizer.json"]
    assert TINY.file(FileRole.GRAPH) == TINY.files[1]
    assert TINY.file(FileRole.TOKENIZER_CONFIG) is None


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"[]", id="no-table"),
        pytest.param(b"\xff", id="not-utf-8"),
        pytest.param(b" " + TINY.encode(), id="white-space"),
        pytest.param(TINY.encode() + b"\n", id="line-end"),
        pytest.param(b"[" * 20_000, id="deep"),
        pytest.param(b'{"a":' + b"9" * 5000 + b"}", id="huge-number"),
        pytest.param(TINY.encode().replace(b'"vocab":100', b'"vocab":1e2'), id="float"),
        pytest.param(TINY.encode()[:-1] + b',"vocab":100}', id="key-twice"),
        pytest.param(json.dumps(json.loads(TINY.encode())).encode(), id="spaces"),
        pytest.param(changed(format="gpu-market/model/2"), id="other-format"),
        pytest.param(changed(extra=1), id="unknown-key"),
        pytest.param(changed(vocab=True), id="bool-as-number"),
        pytest.param(changed(vocab="100"), id="text-as-number"),
        pytest.param(changed(vocab=0), id="no-vocabulary"),
        pytest.param(changed(context=2**31), id="context-too-long"),
        pytest.param(changed(name=""), id="no-name"),
        pytest.param(changed(name="a" * 129), id="name-too-long"),
        pytest.param(changed(name="a\u001b[2J"), id="escape-in-name"),
        pytest.param(changed(name="caf\u00e9"), id="name-not-ascii"),
        pytest.param(changed(eos_ids=[7, 0]), id="end-tokens-not-sorted"),
        pytest.param(changed(eos_ids=[0, 0]), id="end-token-twice"),
        pytest.param(changed(eos_ids=[100]), id="end-token-outside"),
        pytest.param(changed(eos_ids=[0.0]), id="end-token-float"),
        pytest.param(changed(eos_ids=list(range(65))), id="too-many-end-tokens"),
        pytest.param(changed(files=[]), id="no-files"),
        pytest.param(changed(files=["a"]), id="file-is-text"),
        pytest.param(changed_file(sha256="A" * 64), id="hash-in-capitals"),
        pytest.param(changed_file(sha256="00"), id="hash-too-short"),
        pytest.param(changed_file(size=-1), id="negative-size"),
        pytest.param(changed_file(size=2**53), id="size-too-large"),
        pytest.param(changed_file(role="virus"), id="unknown-role"),
        pytest.param(changed_file(role="graph"), id="two-graphs"),
        pytest.param(changed_file(path="zzz"), id="files-not-sorted"),
        pytest.param(changed_file(path="/etc/passwd"), id="absolute"),
        pytest.param(changed_file(path="../a"), id="parent"),
        pytest.param(changed_file(path="a/../b"), id="parent-inside"),
        pytest.param(changed_file(path="a//b"), id="empty-part"),
        pytest.param(changed_file(path=".ssh/id"), id="hidden"),
        pytest.param(changed_file(path="a\\b"), id="backslash"),
        pytest.param(changed_file(path="a b"), id="space-in-path"),
        pytest.param(changed_file(path="a" * 201), id="path-too-long"),
    ],
)
def test_refused(data: bytes) -> None:
    with pytest.raises(DecodeError, match="manifest"):
        manifests.decode(data)


def test_too_many_files_are_not_looked_at() -> None:
    one = {"path": "a", "role": "other", "sha256": "0" * 64, "size": 1}
    with pytest.raises(DecodeError, match="number of files"):
        manifests.decode(changed(files=[one] * 513))
    with pytest.raises(DecodeError, match="too long"):
        manifests.decode(b" " * (64 * 1024 + 1))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_manifest_or_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        manifests.decode(data)


@given(st.integers(0, len(TINY.encode()) - 1), st.integers(1, 255))
def test_a_changed_byte_changes_the_id_or_is_refused(at: int, flip: int) -> None:
    data = bytearray(TINY.encode())
    data[at] ^= flip
    with contextlib.suppress(DecodeError):
        assert manifests.decode(bytes(data)).model_id != TINY.model_id
