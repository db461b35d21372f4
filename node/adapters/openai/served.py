"""A model as a server has it, and what this node knows of it besides."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from node.protocol.fields import Hash
from node.protocol.manifest import FileRole, Manifest
from node.protocol.pieces import CountTokens
from node.protocol.statements import Tier
from node.protocol.stops import Decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What is sold under a manifest, and is run under a name of the server's."""

    name: str
    """The server's."""
    manifest: Manifest
    encode: Callable[[str], Sequence[int]]
    decode: Decode
    count: CountTokens
    renders: bool
    """Whether clients have a chat template, so that they can ask in ids."""

    @property
    def tokenizer(self) -> Hash:
        """sha256 of the file that counts."""
        file = self.manifest.file(FileRole.TOKENIZER)
        assert file is not None, "checked when the model was described"
        return file.sha256


class Ability(Enum):
    """What a server may be able to do; the value says it to people."""

    CHAT = "answers conversations"
    USAGE = "tells what it counted"
    IDS_IN = "takes token ids"
    IDS_OUT = "gives token ids"
    PROMPT_IDS = "tells the prompt's token ids"
    CONTINUES = "goes on with an answer that was begun"
    SEED = "repeats itself under a seed"
    LOGPROBS = "tells log probabilities"
    ECHO = "repeats the prompt (echo)"
    TOP_K = "takes top_k"
    REPETITION = "takes repetition_penalty"
    IGNORE_EOS = "takes ignore_eos"
    JSON_OBJECT = "keeps an answer to a JSON object"
    JSON_SCHEMA = "keeps an answer to a JSON schema"
    TOOLS = "calls a tool where it has to"
    EMBEDDINGS = "makes embeddings"
    DIMENSIONS = "takes dimensions of embeddings"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Whether a server has an ability, as far as a few requests can show."""

    ability: Ability
    has: bool
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """What was found out about one model of a server."""

    trials: tuple[Trial, ...]
    tier: Tier | None
    """What it can be sold as; None: not at all."""
    why: str
    """One sentence on the tier."""

    def has(self, ability: Ability) -> bool:
        """Whether it was found."""
        return any(trial.has for trial in self.trials if trial.ability is ability)

    def to_json(self) -> dict[str, Any]:
        """For `node doctor` and `node status`."""
        return {
            "tier": None if self.tier is None else self.tier.name.lower(),
            "why": self.why,
            "abilities": {
                trial.ability.name.lower(): {"has": trial.has, "detail": trial.detail}
                for trial in self.trials
            },
        }
