"""What `node doctor` finds out about what a home sells: its engine, or its model server."""

from collections.abc import Iterator
from typing import Final

import trio

from node.adapters import model_folder
from node.adapters.openai.http import Refusal, Server
from node.adapters.openai.probe import probe
from node.adapters.openai.served import Abilities, Served
from node.app import engines, local_servers, logs
from node.app.findings import Finding
from node.config import Config
from node.errors import ConfigError, NodeError, Unavailable

PROBE_S: Final = 180.0
"""For all trials of one model."""
NAMES_SHOWN_MAX: Final = 8
ABILITY_WIDTH: Final = 42


def findings(config: Config) -> Iterator[Finding]:
    """All of them.  Asks servers: seconds, a minute with a slow one."""
    logs.configure("warning")
    if config.engine.kind == "openai":
        yield from _server(config)
        return
    what = local_servers.in_process(config.engine.model_dir)
    yield Finding(name="engine", status="ok", detail=what)
    if config.engine.kind == "auto":
        for each in local_servers.found():
            detail = f"{each}, not sold"
            yield Finding(name="engine", status="ok", detail=detail, rows=(each.advice,))


def _server(config: Config) -> Iterator[Finding]:
    try:
        server = engines.server_of(config)
        listed = trio.run(local_servers.names_of, server)
    except NodeError as error:
        yield Finding(name="server", status="problem", detail=str(error), fix=_fix(error))
        return
    shown = ", ".join(listed[:NAMES_SHOWN_MAX]) or "no model"
    yield Finding(name="server", status="ok", detail=f"{server} has {shown}")
    named = engines.paths_of(config)
    if not named:
        fix = f"--model {listed[0] if listed else 'NAME'}=PATH of its tokenizer.json or folder"
        detail = "no model of the server is named, so nothing was tried and nothing can be sold"
        yield Finding(name="model", status="problem", detail=detail, fix=f"{fix}, or engine.models")
    for name in named:
        yield _model(config, server, name, listed)


def _model(config: Config, server: Server, name: str, listed: tuple[str, ...]) -> Finding:
    if name not in listed:
        fix = "name one that it has (--model, engine.models), or load this one there"
        detail = f"{name}: the server lists no such model"
        return Finding(name="model", status="problem", detail=detail, fix=fix)
    try:
        folder = model_folder.load_served(engines.paths_of(config)[name], name=name)
        served = engines.served_of(name, folder)
        found = trio.run(_probed, server, served, config.engine.tier != "text")
    except NodeError as error:
        detail = f"{name}: {error}"
        return Finding(name="model", status="problem", detail=detail, fix=_fix(error))
    tier = found.tier.name.lower() if found.tier else "none, it can't be sold"
    return Finding(
        name="model",
        status="ok" if found.tier else "problem",
        detail=f"{name}: tier {tier}: {found.why}",
        fix="" if found.tier else "see the server's log",
        rows=_rows(found),
        model={"name": name, **found.to_json()},
    )


async def _probed(server: Server, served: Served, ids_wanted: bool) -> Abilities:
    try:
        with trio.fail_after(PROBE_S):
            return await probe(server, served, ids_wanted=ids_wanted)
    except trio.TooSlowError:
        raise Unavailable(f"the server was not done with the trials in {PROBE_S:g} s") from None


def _rows(found: Abilities) -> tuple[str, ...]:
    rows = []
    for each in found.trials:
        word = "yes" if each.has else "no"
        rows.append(f"{word:<5}{each.ability.value:<{ABILITY_WIDTH}}{each.detail}".rstrip())
    return tuple(rows)


def _fix(error: NodeError) -> str:
    if isinstance(error, ConfigError):
        return error.hint or "see engine.url, engine.key_file and engine.models"
    if isinstance(error, Refusal) and error.status in (401, 403):
        return "--key-file, or engine.key_file: a file of mode 0600 with the server's API key"
    if "can't be reached" in str(error):
        return "start the server, or correct engine.url (--url)"
    return "--url, or engine.url: the address, before /v1, of an OpenAI-compatible server"
