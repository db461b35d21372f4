"""The engine that a configuration asks for, and the files that its models' clients need."""

import stat
from dataclasses import dataclass
from pathlib import Path

import structlog

from node.adapters import model_folder
from node.adapters.grammar import Grammars
from node.adapters.model_folder import ModelFolder
from node.adapters.onnx.engine import MakeGrammar, OnnxEngine, OnnxModel
from node.adapters.openai.engine import OpenAIEngine
from node.adapters.openai.http import Server
from node.adapters.openai.served import Served
from node.adapters.text.chat import ChatText
from node.config import Config
from node.errors import ConfigError, PeerError, Unavailable
from node.protocol.manifest import FileRole, Manifest
from node.roles.generation import Engine

log = structlog.get_logger("engine")

KEY_BYTES_MAX = 4096
MB = 10**6


@dataclass(frozen=True, slots=True, kw_only=True)
class Equipment:
    """What a worker sells with."""

    engine: Engine
    files: tuple[bytes, ...]
    """Manifests, and what clients fetch by hash besides."""


def engine_of(config: Config) -> Equipment:
    """The engine, not yet running.  Reads and hashes files: call it in a thread.

    Raises:
        ConfigError: A setting or a model's file can't be used.
    """
    if config.engine.kind == "openai":
        return _openai(config)
    return _onnx(config)


def _onnx(config: Config) -> Equipment:
    settings = config.engine
    root = Path(settings.model_dir) if settings.model_dir else model_folder.shipped()
    folder = model_folder.load(root)
    files = folder.client_files()
    model = OnnxModel(
        manifest=folder.manifest,
        graph=folder.graph,
        decode=ChatText.of(files).decode,
        grammar=_grammar(folder.manifest, files[FileRole.TOKENIZER]),
    )
    engine = OnnxEngine(
        [model],
        slots=settings.slots,
        threads=settings.threads,
        tokens_per_s_max=settings.tokens_per_s_max,
        queue_max=config.worker.queue_max,
        prefix_bytes_max=settings.prefix_mb * MB,
    )
    return Equipment(engine=engine, files=_files(folder))


def _grammar(manifest: Manifest, tokenizer: bytes) -> MakeGrammar | None:
    try:
        return Grammars(tokenizer, vocab=manifest.vocab, eos_ids=manifest.eos_ids).start
    except Unavailable as error:
        log.warning("no formats are sold", model=manifest.name, reason=str(error))
        return None


def _openai(config: Config) -> Equipment:
    settings = config.engine
    paths = paths_of(config)
    if not paths:
        raise ConfigError(
            "no model of the server is named",
            hint="--model NAME=PATH of its tokenizer.json or folder, or engine.models; "
            f"`node doctor --url {settings.url or 'URL'}` lists the models that the server has",
        )
    folders = {name: model_folder.load_served(path, name=name) for name, path in paths.items()}
    served = [served_of(name, folder) for name, folder in folders.items()]
    ids = [each.manifest.model_id for each in served]
    if len(set(ids)) < len(ids):
        raise ConfigError("engine.models: two names of one model", hint="name each model once")
    engine = OpenAIEngine(
        server_of(config),
        served,
        slots=settings.slots,
        queue_max=config.worker.queue_max,
        tokens_per_s_max=settings.tokens_per_s_max,
        context=settings.context,
        ids_wanted=settings.tier != "text",
    )
    files = tuple(content for folder in folders.values() for content in _files(folder))
    return Equipment(engine=engine, files=files)


def server_of(config: Config) -> Server:
    """Where the configured server is, with its key.

    Raises:
        ConfigError: No address, or a key file that can't be used.
    """
    if not config.engine.url:
        raise ConfigError("no server is named", hint="--url http://127.0.0.1:8000, or engine.url")
    return Server.at(config.engine.url, key=read_key(config.home, config.engine.key_file))


def served_of(name: str, folder: ModelFolder) -> Served:
    """A model of a server, with its tokenizer loaded.

    Raises:
        ConfigError: The tokenizer can't be used.
    """
    try:
        text = ChatText.of(folder.client_files())
    except PeerError as error:
        raise ConfigError(f"engine.models: {name}: {error}") from error
    return Served(
        name=name,
        manifest=folder.manifest,
        encode=text.encode,
        decode=text.decode,
        count=text.count,
        renders=text.has_template,
    )


def paths_of(config: Config) -> dict[str, Path]:
    """Where the files are of each model that is to be sold, by the server's name of it."""
    pairs = (each.partition("=")[::2] for each in config.engine.models)
    return {name.strip(): config.home / Path(path.strip()).expanduser() for name, path in pairs}


def _files(folder: ModelFolder) -> tuple[bytes, ...]:
    return (folder.manifest.encode(), *folder.client_files().values())


def read_key(home: Path, file: str) -> str:
    """A server's API key.

    Args:
        home: What the file's name is relative to.
        file: Its name; empty: the server wants none.

    Raises:
        ConfigError: It can't be used, or others may read it.
    """
    if not file:
        return ""
    path = home / Path(file).expanduser()
    try:
        with path.open("rb") as opened:
            if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise ConfigError(f"others may read {path}", hint=f"chmod 600 {path}")
            key = opened.read(KEY_BYTES_MAX).decode("ascii").strip()
    except UnicodeDecodeError:
        raise ConfigError(f"{path} holds something that is no key") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if not key:
        raise ConfigError(f"{path} is empty")
    return key
