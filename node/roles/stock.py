"""Which models a worker has to sell: an engine's models may leave and come back."""

import structlog

from node.protocol.fields import Hash
from node.protocol.statements import Terms
from node.roles.generation import Engine, EngineModel

log = structlog.get_logger("seller")


class Stock:
    """What the engine has now, and had before."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: set[Hash] = set()
        self._there: set[Hash] = set()

    def now(self) -> dict[Hash, EngineModel]:
        """Models that can be sold now, by id."""
        return {each.manifest.model_id: each for each in self._engine.models()}

    def knows(self, model: Hash) -> bool:
        """Whether the model was ever there: who wants offers of it gets them once it is back."""
        return model in self._known

    def look(self) -> bool:
        """Whether models came or left since the last look."""
        there = set(self.now())
        if there == self._there:
            return False
        self._there, self._known = there, self._known | there
        log.info("models", there=sorted(model.hex() for model in there))
        return True

    def sold_by(self, terms: Terms) -> EngineModel | None:
        """The model that terms are about; None: it is not there, or is not what they say."""
        model = self.now().get(terms.model)
        if model is None or (terms.tier, terms.tokenizer) != (model.tier, model.tokenizer):
            return None
        if terms.skills & ~model.skills:
            return None
        return model
