"""A model on disk: a folder of an exported decoder, and the manifest that describes it."""

import hashlib
import json
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

from node.errors import ConfigError, DecodeError
from node.protocol import manifest as manifests
from node.protocol.manifest import FileRole, Manifest, ModelFile

MANIFEST: Final = "manifest.json"
GRAPHS: Final = ("model.onnx", "onnx/model.onnx", "model_fp16.onnx", "onnx/model_fp16.onnx")
"""Where exporters put the graph, in order of preference."""
ROLES: Final[Mapping[str, FileRole]] = {
    "tokenizer.json": FileRole.TOKENIZER,
    "tokenizer_config.json": FileRole.TOKENIZER_CONFIG,
    "chat_template.jinja": FileRole.CHAT_TEMPLATE,
    "config.json": FileRole.CONFIG,
    "generation_config.json": FileRole.CONFIG,
}
CONTEXT_KEYS: Final = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
UNKNOWN: Final = "unknown"
LICENCE_UNKNOWN: Final = "NOASSERTION"
"""What SPDX has for it."""
READ_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolder:
    """A folder whose files are those of the manifest."""

    root: Path
    manifest: Manifest

    @property
    def graph(self) -> Path:
        """The ONNX graph.

        Raises:
            ConfigError: The model has none.
        """
        file = self.manifest.file(FileRole.GRAPH)
        if file is None:
            raise ConfigError(f"{self.root}: the model has no ONNX graph")
        return self.root / file.path

    def client_files(self) -> dict[FileRole, bytes]:
        """Contents of what a client needs, by role."""
        return {f.role: (self.root / f.path).read_bytes() for f in self.manifest.client_files}

    def read(self, sha256: bytes) -> bytes | None:
        """What a peer may fetch, by hash: the manifest and the files that clients need."""
        if sha256 == self.manifest.model_id:
            return self.manifest.encode()
        for file in self.manifest.client_files:
            if file.sha256 == sha256:
                return (self.root / file.path).read_bytes()
        return None


def shipped() -> Path:
    """Folder of the small model inside the package."""
    return Path(str(resources.files("node") / "data" / "model"))


def load(root: Path) -> ModelFolder:
    """A model folder, every file of it checked against its manifest.json.

    A folder without one gets a manifest made from what lies in it; nothing is written.  Hashes
    everything: seconds for a large model, so call it in a thread.

    Raises:
        ConfigError: The folder can't be used, or a file is not the one of the manifest.
    """
    path = root / MANIFEST
    try:
        if not path.is_file():
            return ModelFolder(root=root, manifest=describe(root))
        model = ModelFolder(root=root, manifest=manifests.decode(path.read_bytes()))
        for file in model.manifest.files:
            _check(root, file)
    except DecodeError as error:
        raise ConfigError(f"{path}: {error}") from error
    except OSError as error:
        raise ConfigError(f"{root}: {error.strerror}: {error.filename}") from error
    return model


def load_served(path: Path, *, name: str) -> ModelFolder:
    """What is known of a model that a server runs: its tokenizer, and what else lies beside it.

    Args:
        path: A tokenizer.json; or a folder with it, or with a manifest.json and the files of it
            that clients need.  Weights need not be there.
        name: What the model is called, where only a tokenizer.json is named.

    Raises:
        ConfigError: There is nothing that could be used.
    """
    try:
        if path.is_file():
            file = _file(path.parent, path.name, FileRole.TOKENIZER)
            return ModelFolder(root=path.parent, manifest=_unweighed(name, (file,), path, {}, {}))
        if not (path / MANIFEST).is_file():
            return ModelFolder(root=path, manifest=_describe_served(path))
        model = ModelFolder(root=path, manifest=manifests.decode((path / MANIFEST).read_bytes()))
        for each in model.manifest.client_files:
            _check(path, each)
    except DecodeError as error:
        raise ConfigError(f"{path}: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}: {error.filename}") from error
    if model.manifest.file(FileRole.TOKENIZER) is None:
        raise ConfigError(f"{path}: the manifest names no tokenizer")
    return model


def _describe_served(root: Path) -> Manifest:
    tokenizer = root / "tokenizer.json"
    if not tokenizer.is_file():
        raise ConfigError(f"{root}: no tokenizer.json")
    roles = sorted((name, role) for name, role in ROLES.items() if role in manifests.CLIENT_ROLES)
    files = tuple(_file(root, name, role) for name, role in roles if (root / name).is_file())
    config, generation = (_json(root / f"{n}.json", {}) for n in ("config", "generation_config"))
    return _unweighed(root.resolve().name, files, tokenizer, config, generation)


def _unweighed(
    name: str,
    files: tuple[ModelFile, ...],
    tokenizer: Path,
    config: Mapping[str, Any],
    generation: Mapping[str, Any],
) -> Manifest:
    """The manifest of a model whose weights are elsewhere: it promises how it counts and reads."""
    text = config.get("text_config", config)
    eos = generation.get("eos_token_id", config.get("eos_token_id", []))
    try:
        return Manifest(
            name=name,
            architecture=str(config.get("model_type", UNKNOWN)),
            precision=UNKNOWN,
            context=int(next((text[k] for k in CONTEXT_KEYS if k in text), manifests.CONTEXT_MAX)),
            vocab=int(text.get("vocab_size") or _vocab(tokenizer)),
            licence=LICENCE_UNKNOWN,
            eos_ids=tuple(sorted({int(token) for token in (eos if _is_list(eos) else [eos])})),
            files=files,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{tokenizer}: not a tokenizer, or config.json is none") from error


def _vocab(tokenizer: Path) -> int:
    """One more than the highest id in a tokenizer.json."""
    document = _json(tokenizer)
    known = document["model"]["vocab"]
    added = [int(each["id"]) for each in document.get("added_tokens", [])]
    ids = range(len(known)) if _is_list(known) else known.values()
    return 1 + max(*map(int, ids), *added, 0)


def describe(root: Path, *, name: str = "", licence: str = LICENCE_UNKNOWN) -> Manifest:
    """The manifest of an exported decoder's folder, as Optimum and the like write it.

    Args:
        root: The folder.
        name: What the model is called; the folder's name if empty.
        licence: SPDX identifier.

    Raises:
        ConfigError: No graph, tokenizer or config, or what they say can't be used.
    """
    graph = _graph(root)
    config = _json(root / "config.json")
    generation = _json(root / "generation_config.json", {})
    text = config.get("text_config", config)
    eos = generation.get("eos_token_id", config.get("eos_token_id", []))
    found = [_file(root, path, role) for path, role in sorted(_files(root, graph))]
    if not any(file.role is FileRole.TOKENIZER for file in found):
        raise ConfigError(f"{root}: no tokenizer.json")
    try:
        return Manifest(
            name=name or root.resolve().name,
            architecture=str(config.get("model_type", "unknown")),
            precision=_precision(graph),
            context=int(next(text[key] for key in CONTEXT_KEYS if key in text)),
            vocab=int(text["vocab_size"]),
            licence=licence,
            eos_ids=tuple(sorted({int(token) for token in (eos if _is_list(eos) else [eos])})),
            files=tuple(found),
        )
    except (KeyError, StopIteration, TypeError, ValueError) as error:
        raise ConfigError(f"{root}: config.json lacks context, vocabulary or end token") from error
    except DecodeError as error:
        raise ConfigError(f"{root}: {error}") from error


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _graph(root: Path) -> Path:
    found = next((root / name for name in GRAPHS if (root / name).is_file()), None)
    if found is None:
        raise ConfigError(
            f"{root}: no ONNX graph",
            hint="export the model with: optimum-cli export onnx --task text-generation-with-past",
        )
    return found


def _files(root: Path, graph: Path) -> Iterator[tuple[str, FileRole]]:
    """Paths of what makes up the model, and what each is for."""
    yield graph.relative_to(root).as_posix(), FileRole.GRAPH
    for name, role in ROLES.items():
        if (root / name).is_file():
            yield name, role
    for path in graph.parent.iterdir():
        other = path.name in ROLES or path.suffix in {".onnx", ".jinja"} or not path.is_file()
        # A graph names the files that its weights lie in.
        if not other and _contains(graph, path.name.encode()):
            yield path.relative_to(root).as_posix(), FileRole.WEIGHTS


def _contains(path: Path, part: bytes) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(part) >= 0


def _precision(graph: Path) -> str:
    """What exporters' file names say about the numbers that are computed with."""
    word = graph.stem.removeprefix("model").lstrip("_")
    return {"": "float32", "fp16": "float16"}.get(word, word)


def _file(root: Path, path: str, role: FileRole) -> ModelFile:
    digest, size = _digest(root / path)
    return ModelFile(path=path, role=role, sha256=digest, size=size)


def _check(root: Path, file: ModelFile) -> None:
    if _digest(root / file.path) != (file.sha256, file.size):
        raise ConfigError(f"{root / file.path}: not the file that the manifest names")


def _digest(path: Path) -> tuple[bytes, int]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while part := file.read(READ_BYTES):
            digest.update(part)
            size += len(part)
    return digest.digest(), size


def _json(path: Path, default: dict[str, Any] | None = None) -> dict[str, Any]:
    if default is not None and not path.is_file():
        return default
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: not a table")
    return document
