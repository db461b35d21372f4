"""The market as the gateway's clients see it (`adapters.http.port.Desk`)."""

import secrets
from dataclasses import replace
from functools import partial
from typing import Any

import trio

from node.adapters.http.errors import ApiError, bad_field, not_found
from node.adapters.http.port import Ask, Customer, Job, Sink
from node.app import receipts
from node.app.gateway_job import Counter, MarketJob, Wanted
from node.app.gateway_plan import precise_enough, steps
from node.app.gateway_resort import LastResortJob, Noted
from node.app.gateway_upstream import Upstream
from node.app.gateway_views import endpoint_view, generation_view, model_view
from node.app.ordering import Question
from node.errors import ConfigError, NodeError, UsageError
from node.protocol.announcements import ANY_MODEL
from node.roles.stores import ClientStore


class MarketDesk:
    """Sells what `Counter` can buy."""

    def __init__(
        self, counter: Counter, store: ClientStore, upstream: Upstream | None, *, began_s: int
    ) -> None:
        """
        Args:
            counter: What jobs share.
            store: Of the jobs that were bought.
            upstream: Answers where no worker is left.
            began_s: Unix time at which the gateway started.
        """
        self._counter = counter
        self._store = store
        self._upstream = upstream
        self._began_s = began_s

    def jobs(self, ask: Ask, sinks: tuple[Sink, ...], customer: Customer) -> tuple[Job, ...]:
        """One job for each answer, in the order of the sinks; nothing is begun.

        Raises:
            ApiError: A worker is named by what is no address and no PeerID.
        """
        try:
            plan = steps(ask, self._counter.config.client)
        except UsageError as error:
            raise bad_field("provider", str(error)) from error
        # Several answers to one prompt differ by their number alone, so they share a seed.
        seed = ask.seed if ask.choices == 1 or ask.seed is not None else secrets.randbits(64)
        wanted = [
            Wanted(
                question=replace(question, seed=seed),
                steps=plan,
                precise=partial(precise_enough, ask.routing),
                limit=ask.max_tokens,
            )
            for question in _questions(ask)
        ]
        return tuple(
            self._job(ask, each, sink, customer) for each, sink in zip(wanted, sinks, strict=True)
        )

    def _job(self, ask: Ask, wanted: Wanted, sink: Sink, customer: Customer) -> Job:
        upstream, routing = self._upstream, ask.routing
        # A request that says which workers will do, or how exact they are, means nobody else; and
        # vectors of another server's model would fit none that its client has.
        strict = ask.inputs or routing.only or routing.quantizations or not routing.allow_fallbacks
        name = None if upstream is None or strict else upstream.name_of(ask.models)
        if upstream is None or name is None:
            return MarketJob(self._counter, wanted, sink, customer)
        noted = Noted(sink)
        return LastResortJob(
            MarketJob(self._counter, wanted, noted, customer),
            self._counter,
            wanted,
            noted,
            upstream=upstream,
            name=name,
        )

    async def models(self) -> list[dict[str, Any]]:
        """Every model that is sold, with its best live prices."""
        shelf, market = self._counter.shelf, self._counter.buyer.market
        await shelf.offers(ANY_MODEL)
        counts = self._counter.buyer.hints.models()
        return [
            model_view(
                model,
                name=name,
                workers=counts[model][1],
                offers=market.live_offers(model),
                created_s=self._began_s,
            )
            for model, name in shelf.ids().items()
        ]

    async def endpoints(self, name: str) -> dict[str, Any]:
        """Who sells a model, on which terms, and how they did.

        Raises:
            ApiError: Nobody sells it.
        """
        market = self._counter.buyer.market
        model, title = await self._counter.shelf.find(name)
        offers = await self._counter.shelf.offers(model)
        tracks = market.tracks(model)
        return {
            "id": title,
            "name": title,
            "x_model_id": "0x" + model.hex(),
            "endpoints": [
                endpoint_view(
                    each.terms,
                    name=title,
                    track=tracks.get(each.terms.worker),
                    samples=market.samples(each.terms.worker, model),
                )
                for each in offers
            ],
        }

    async def generation(self, job_id: str) -> dict[str, Any]:
        """The figures of a transcript.

        Raises:
            ApiError: There is none of this job.
        """
        job = bytes.fromhex(job_id)
        known = await self._store.job(job)
        if known is None:
            raise not_found("there is no generation with this id")
        path = self._counter.home.transcripts / f"{job_id}{receipts.TRANSCRIPT_SUFFIX}"
        try:
            sealed = await trio.to_thread.run_sync(receipts.read, path)
        except ConfigError as error:
            raise not_found("this generation has no transcript") from error
        except NodeError as error:
            raise ApiError(
                500, "the transcript can't be read", code="node_failed", kind="server_error"
            ) from error
        names = self._counter.shelf.ids()
        return generation_view(path, sealed, name=names.get(known.model, "0x" + known.model.hex()))


def _questions(ask: Ask) -> list[Question]:
    """One for each answer: all choices of the first prompt, then of the next."""
    if ask.inputs:
        return [Question(inputs=each, sampling=ask.sampling, max_tokens=1) for each in ask.inputs]
    return [
        Question(
            messages=ask.messages,
            prompt=prompt,
            sampling=replace(ask.sampling, choice=choice),
            max_tokens=ask.max_tokens or 1,
            stops=ask.stops,
            ignore_eos=ask.ignore_eos,
            format=ask.format,
            toolbox=ask.toolbox,
        )
        for prompt in ask.prompts or ("",)
        for choice in range(ask.choices)
    ]
