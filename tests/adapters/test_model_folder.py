"""Model folders: the shipped one, one without a manifest, and broken ones."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from node.adapters import model_folder
from node.errors import ConfigError
from node.protocol import manifest as manifests
from node.protocol.manifest import FileRole

SHIPPED = model_folder.shipped()
TOTAL_BYTES_MAX = 6_000_000


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The shipped files as an exporter would leave them: no manifest."""
    for name in ("model.onnx", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(SHIPPED / name, tmp_path)
    for name in ("config.json", "generation_config.json"):
        shutil.copy(SHIPPED / name, tmp_path)
    return tmp_path


def test_the_shipped_model() -> None:
    folder = model_folder.load(SHIPPED)
    assert folder.manifest.context >= 2048
    assert folder.manifest.licence == "Apache-2.0"
    assert folder.manifest.precision == "float32"
    assert folder.graph.is_file()
    assert set(folder.client_files()) == {FileRole.TOKENIZER, FileRole.TOKENIZER_CONFIG}
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < TOTAL_BYTES_MAX


def test_the_record_of_the_build_is_of_these_files() -> None:
    record = json.loads((SHIPPED / "BUILD.json").read_text(encoding="utf-8"))
    files = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in SHIPPED.iterdir()
        if path.is_file() and path.name != "BUILD.json"
    }
    assert record["files"] == files
    assert record["model_id"] == model_folder.load(SHIPPED).manifest.model_id.hex()
    assert record["held_out"]["right"] <= record["held_out"]["asked"]


def test_weights_are_a_safetensors_file_that_the_graph_points_into() -> None:
    data = (SHIPPED / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__")
    assert {entry["dtype"] for entry in header.values()} == {"F16"}
    assert max(entry["data_offsets"][1] for entry in header.values()) == len(data) - 8 - size
    assert "model.layers.0.self_attn.q_proj.weight" in header
    assert b"model.safetensors" in (SHIPPED / "model.onnx").read_bytes()


def test_a_folder_without_a_manifest(copy: Path) -> None:
    folder = model_folder.load(copy)
    shipped = manifests.decode((SHIPPED / "manifest.json").read_bytes())
    assert folder.manifest.files == shipped.files
    assert folder.manifest.name == copy.name
    assert folder.manifest.licence == "NOASSERTION"
    assert not (copy / "manifest.json").exists()


def test_graph_in_a_folder_of_its_own_and_external_data(copy: Path) -> None:
    (copy / "onnx").mkdir()
    (copy / "model.onnx").rename(copy / "onnx/model.onnx")
    (copy / "model.safetensors").rename(copy / "onnx/model.safetensors")
    (copy / "onnx/model_q4.onnx").write_bytes(b"another variant")
    (copy / "README.md").write_text("not part of the model")
    paths = {file.path: file.role for file in model_folder.load(copy).manifest.files}
    assert paths["onnx/model.onnx"] is FileRole.GRAPH
    assert paths["onnx/model.safetensors"] is FileRole.WEIGHTS
    assert len(paths) == 6


def test_chat_template_in_a_file(copy: Path) -> None:
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    assert FileRole.CHAT_TEMPLATE in model_folder.load(copy).client_files()


def test_what_peers_may_fetch() -> None:
    folder = model_folder.load(SHIPPED)
    served = [folder.manifest.model_id, *(f.sha256 for f in folder.manifest.client_files)]
    for digest in served:
        content = folder.read(digest)
        assert content is not None
        assert hashlib.sha256(content).digest() == digest
    weights = folder.manifest.file(FileRole.GRAPH)
    assert weights is not None
    assert folder.read(weights.sha256) is None
    assert folder.read(bytes(32)) is None


def change_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    kept = {key: value for key, value in (config | changes).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda f: (f / "model.onnx").unlink(), "no ONNX graph"),
        (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer.json"),
        (lambda f: (f / "config.json").unlink(), "config.json"),
        (lambda f: (f / "config.json").write_text("{"), "config.json"),
        (lambda f: (f / "config.json").write_text("[]"), "not a table"),
        (lambda f: change_config(f, vocab_size=None), "lacks context"),
        (lambda f: change_config(f, max_position_embeddings=None), "lacks context"),
        (lambda f: change_config(f, vocab_size="many"), "lacks context"),
        (lambda f: (f / "manifest.json").write_text("{}"), "manifest"),
    ],
)
def test_unusable_folders(copy: Path, spoil: Callable[[Path], object], complaint: str) -> None:
    spoil(copy)
    with pytest.raises(ConfigError, match=complaint):
        model_folder.load(copy)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "model.safetensors"])
def test_a_file_that_is_not_the_manifests(copy: Path, name: str) -> None:
    shutil.copy(SHIPPED / "manifest.json", copy)
    model_folder.load(copy)
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(ConfigError, match=name):
        model_folder.load(copy)
    (copy / name).unlink()
    with pytest.raises(ConfigError, match="No such file"):
        model_folder.load(copy)
