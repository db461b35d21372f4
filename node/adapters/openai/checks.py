"""What a server's model may be asked: by its tier, and by what was found out about it."""

from node.adapters.openai.served import Abilities, Ability
from node.errors import PeerError, Unavailable
from node.protocol import formats, tool_calls
from node.protocol.embeddings import TextPrompt
from node.protocol.embeddings import skills_of as needed_by
from node.protocol.statements import Skill, Tier
from node.roles.generation import EngineModel, GenerationRequest


def skills_of(found: Abilities) -> int:
    """What the model can be sold as being able to do besides, in tier text: bits of `Skill`."""
    skills = {
        Ability.JSON_OBJECT: Skill.JSON,
        Ability.JSON_SCHEMA: Skill.SCHEMA,
        Ability.TOOLS: Skill.TOOLS,
        Ability.EMBEDDINGS: Skill.EMBEDDINGS,
        Ability.DIMENSIONS: Skill.DIMENSIONS,
    }
    return sum(skill for ability, skill in skills.items() if found.has(ability))


def check(model: EngineModel, found: Abilities, request: GenerationRequest) -> None:
    """
    Raises:
        PeerError: Nothing that this model could be asked.
        Unavailable: Something that this server does not do.
    """
    for ability, wanted in _wanted(request).items():
        if wanted and not found.has(ability):
            raise Unavailable(f"no server that {ability.value}")
    if request.sampling.logprobs is not None:
        raise Unavailable("a server's log probabilities are not passed on")
    if (request.chat is None) != (model.tier is Tier.IDS):
        raise PeerError("a request of another tier")
    if formats.skill_of(request.format) & ~model.skills:
        raise PeerError("a format that can't be forced here")
    if request.chat is not None:
        _check_prompt(model, request.chat, request.prefix_text)
    if request.format and request.prefix_text:
        # Servers force a format anew from where they go on.
        raise Unavailable("an answer in a format can't be gone on with")
    if request.chat is None:
        _check_ids(model, request)


def _check_prompt(model: EngineModel, prompt: TextPrompt, prefix: str) -> None:
    needed = needed_by(prompt)
    if needed & Skill.TOOLS & ~model.skills:
        raise PeerError("tools that can't be shown here")
    if (needed ^ model.skills) & Skill.EMBEDDINGS or needed & Skill.DIMENSIONS & ~model.skills:
        raise PeerError("embeddings of a model that makes none such, or text of one that does")
    if needed & Skill.TOOLS and tool_calls.OPEN in prefix:
        raise Unavailable("a call that was begun can't be gone on with")


def _check_ids(model: EngineModel, request: GenerationRequest) -> None:
    before = request.prompt_ids + request.prefix_ids
    if not request.prompt_ids or len(before) >= model.context:
        raise PeerError(f"a prompt of {len(before)} tokens; the context is {model.context}")
    if not all(0 <= token < model.manifest.vocab for token in before):
        raise PeerError("a token id outside the vocabulary")


def _wanted(request: GenerationRequest) -> dict[Ability, bool]:
    """What a request asks for that some servers refuse or, worse, leave out in silence."""
    return {
        Ability.TOP_K: request.sampling.top_k != 0,
        Ability.REPETITION: request.sampling.repetition != 1.0,
        Ability.IGNORE_EOS: request.ignore_eos,
    }
