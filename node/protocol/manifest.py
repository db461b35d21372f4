"""The manifest of a model: its files by hash.  The hash of the manifest is the model's id."""

import hashlib
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from node.errors import DecodeError

FORMAT: Final = "gpu-market/model/1"
MANIFEST_BYTES_MAX: Final = 64 * 1024
FILES_MAX: Final = 512
PATH_CHARS_MAX: Final = 200
NAME_CHARS_MAX: Final = 128
WORD_CHARS_MAX: Final = 64
SIZE_MAX: Final = 2**53 - 1
CONTEXT_MAX: Final = 2**31 - 1
EOS_MAX: Final = 64
TOKEN_CHARS_MAX: Final = 128

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._/:+-]*")
_HEX = re.compile(r"[0-9a-f]{64}")


class FileRole(StrEnum):
    """What a file is for.  A client needs those of `CLIENT_ROLES` and no others."""

    TOKENIZER = "tokenizer"
    """tokenizer.json of the `tokenizers` library."""
    TOKENIZER_CONFIG = "tokenizer_config"
    """JSON that may hold `chat_template`, `bos_token` and `eos_token`."""
    CHAT_TEMPLATE = "chat_template"
    """A Jinja template by itself; it goes before the one in the tokenizer's config."""
    GRAPH = "graph"
    WEIGHTS = "weights"
    CONFIG = "config"
    OTHER = "other"


CLIENT_ROLES: Final = (FileRole.TOKENIZER, FileRole.TOKENIZER_CONFIG, FileRole.CHAT_TEMPLATE)
SINGLE_ROLES: Final = (*CLIENT_ROLES, FileRole.GRAPH)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """One file of a model."""

    path: str
    """Relative, with `/`, inside the model's folder."""
    role: FileRole
    sha256: bytes
    size: int
    """Bytes."""

    @property
    def client(self) -> bool:
        """Whether a client needs it, to count and to read."""
        return self.role in CLIENT_ROLES


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a model is.  Two workers that name the same id promise the same bytes.

    Raises:
        DecodeError: A value is outside its bounds.
    """

    name: str
    architecture: str
    """The shape's family, such as `llama`: a hint."""
    precision: str
    """What is computed in, such as `float32`: checks of a result are calibrated for it."""
    context: int
    """Most tokens of prompt and output together."""
    vocab: int
    """Token ids are below this."""
    licence: str
    """SPDX identifier."""
    eos_ids: tuple[int, ...]
    """End tokens, ascending."""
    files: tuple[ModelFile, ...]
    """Ascending by path."""

    def __post_init__(self) -> None:
        _text("name", self.name, NAME_CHARS_MAX, _NAME)
        for key in ("architecture", "precision", "licence"):
            _text(key, getattr(self, key), WORD_CHARS_MAX, _NAME)
        _bounded("context", 1, self.context, CONTEXT_MAX)
        _bounded("vocab", 1, self.vocab, CONTEXT_MAX)
        _bounded("number of end tokens", 0, len(self.eos_ids), EOS_MAX)
        for token in self.eos_ids:
            _bounded("end token", 0, token, self.vocab - 1)
        _ascending("end tokens", self.eos_ids)
        self._check_files()

    def _check_files(self) -> None:
        _bounded("number of files", 1, len(self.files), FILES_MAX)
        _ascending("files", tuple(file.path for file in self.files))
        for file in self.files:
            check_path(file.path)
            _bounded("size", 0, file.size, SIZE_MAX)
            if len(file.sha256) != 32:
                raise DecodeError("manifest: a hash is not 32 bytes")
        for role in SINGLE_ROLES:
            if sum(file.role is role for file in self.files) > 1:
                raise DecodeError(f"manifest: more than one {role}")

    def file(self, role: FileRole) -> ModelFile | None:
        """The file of a role that occurs once, if the model has it."""
        return next((file for file in self.files if file.role is role), None)

    @property
    def client_files(self) -> tuple[ModelFile, ...]:
        """What a client fetches by hash, besides the manifest."""
        return tuple(file for file in self.files if file.client)

    def encode(self) -> bytes:
        """Canonical bytes: JSON, UTF-8, keys sorted, no white space."""
        document = {
            "architecture": self.architecture,
            "context": self.context,
            "eos_ids": list(self.eos_ids),
            "files": [
                {"path": f.path, "role": f.role.value, "sha256": f.sha256.hex(), "size": f.size}
                for f in self.files
            ],
            "format": FORMAT,
            "licence": self.licence,
            "name": self.name,
            "precision": self.precision,
            "vocab": self.vocab,
        }
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return text.encode()

    @property
    def model_id(self) -> bytes:
        """32 bytes: SHA-256 of the canonical bytes."""
        return hashlib.sha256(self.encode()).digest()


def decode(data: bytes) -> Manifest:
    """A manifest from its canonical bytes; no other bytes are accepted.

    Raises:
        DecodeError: Too long, not JSON, not canonical, or a value is outside its bounds.
    """
    if len(data) > MANIFEST_BYTES_MAX:
        raise DecodeError("manifest: too long")
    try:
        document = json.loads(data.decode(), object_pairs_hook=_no_duplicates)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise DecodeError("manifest: not JSON") from error
    manifest = _manifest(document)
    if manifest.encode() != data:
        raise DecodeError("manifest: not canonical")
    return manifest


def check_path(path: str) -> None:
    """Refuse what is not a plain relative path inside the folder.

    Raises:
        DecodeError: It has an empty, hidden or parent part, or characters outside the allowed.
    """
    if len(path) > PATH_CHARS_MAX or not all(map(_PART.fullmatch, path.split("/"))):
        raise DecodeError("manifest: a path that is not allowed")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


_KEYS: Final[Mapping[str, type]] = {
    "architecture": str,
    "context": int,
    "eos_ids": list,
    "files": list,
    "format": str,
    "licence": str,
    "name": str,
    "precision": str,
    "vocab": int,
}
_FILE_KEYS: Final[Mapping[str, type]] = {"path": str, "role": str, "sha256": str, "size": int}


def _manifest(document: Any) -> Manifest:
    values = _typed(document, _KEYS)
    if values.pop("format") != FORMAT:
        raise DecodeError("manifest: a format that is not known")
    # Counts before anything is built from them.
    _bounded("number of files", 1, len(values["files"]), FILES_MAX)
    _bounded("number of end tokens", 0, len(values["eos_ids"]), EOS_MAX)
    if any(type(token) is not int for token in values["eos_ids"]):
        raise DecodeError("manifest: an end token is not a number")
    values["eos_ids"] = tuple(values["eos_ids"])
    values["files"] = tuple(map(_file, values["files"]))
    return Manifest(**values)


def _file(document: Any) -> ModelFile:
    values = _typed(document, _FILE_KEYS)
    if not _HEX.fullmatch(values["sha256"]):
        raise DecodeError("manifest: a hash that is not 64 hexadecimal digits")
    try:
        role = FileRole(values["role"])
    except ValueError:
        raise DecodeError("manifest: a role that is not known") from None
    sha256 = bytes.fromhex(values["sha256"])
    return ModelFile(path=values["path"], role=role, sha256=sha256, size=values["size"])


def _typed(document: Any, keys: Mapping[str, type]) -> dict[str, Any]:
    if not isinstance(document, dict) or document.keys() != keys.keys():
        raise DecodeError("manifest: keys are missing or unknown")
    if any(type(document[key]) is not kind for key, kind in keys.items()):
        raise DecodeError("manifest: a value of the wrong type")
    return dict(document)


def _text(key: str, value: str, chars_max: int, pattern: re.Pattern[str]) -> None:
    if len(value) > chars_max or not pattern.fullmatch(value):
        raise DecodeError(f"manifest: {key} is empty, too long, or has characters not allowed")


def _bounded(key: str, low: int, value: int, high: int) -> None:
    if not low <= value <= high:
        raise DecodeError(f"manifest: {key} is not within {low} to {high}")


def _ascending(key: str, values: tuple[Any, ...]) -> None:
    if any(a >= b for a, b in itertools.pairwise(values)):
        raise DecodeError(f"manifest: {key} are not ascending")
