"""Options that most commands share, and how they become a Config."""

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
OLD_STORE = click.option(
    "--old-store", is_flag=True, help="Even though an old copy of the store was put back."
)


def _absolute(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """A path of the command line is meant from here; one in the config file, from the home."""
    return str(Path(value).expanduser().absolute()) if value else value


def _absolute_models(
    _ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    pairs = [value.partition("=") for value in values]
    for name, _, path in pairs:
        if not name.strip() or not path.strip():
            raise click.BadParameter("needs NAME=PATH")
    return tuple(f"{name}={Path(path.strip()).expanduser().absolute()}" for name, _, path in pairs)


SERVER_URL = click.option(
    "--url", help="Of an OpenAI-compatible server, such as http://127.0.0.1:8000."
)
SERVER_MODELS = click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME=PATH",
    callback=_absolute_models,
    help="A model of that server, and its tokenizer.json or folder; repeatable.",
)
SERVER_KEY_FILE = click.option(
    "--key-file", callback=_absolute, help="File with that server's API key."
)


def with_config(**flags: str) -> Callable[[Command], Command]:
    """Add --home, --set and --password-file, and call the command with the Config they give.

    Args:
        **flags: Options of the command that are settings: parameter name to ``section.key``.
            They are taken out of the command's arguments.
    """

    def decorate(command: Command) -> Command:
        def wrapped(
            ctx: click.Context,
            /,
            home: str | None,
            settings: tuple[str, ...],
            password_file: str | None,
            **arguments: Any,
        ) -> Any:
            given = {name: arguments.pop(flag) for flag, name in flags.items()}
            if password_file:
                given["keystore.password_file"] = str(Path(password_file).absolute())
            return command(_load(ctx, home, settings, given), **arguments)

        functools.update_wrapper(wrapped, command)
        return _home_option(_set_option(_password_option(click.pass_context(wrapped))))

    return decorate


def with_home(command: Command) -> Command:
    """Add --home and --set, and call the command with the home's path and the settings by name."""

    def wrapped(
        ctx: click.Context, /, home: str | None, settings: tuple[str, ...], **arguments: Any
    ) -> Any:
        return command(
            locate(ctx, home), _split((*_of_root(ctx, "settings"), *settings)), **arguments
        )

    functools.update_wrapper(wrapped, command)
    return _home_option(_set_option(click.pass_context(wrapped)))


def locate(ctx: click.Context, home: str | None) -> Path:
    """The home directory that the command line, the environment or the system names."""
    from node.app.home import locate as locate_home

    return locate_home(home or _of_root(ctx, "home"), os.environ).path


_home_option = click.option(
    "--home", help="Data directory; or GPUNODE_HOME.", type=click.Path(file_okay=False)
)
_set_option = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="A setting, over the file.",
)
_password_option = click.option(
    "--password-file", help="File with the key's password.", type=click.Path(dir_okay=False)
)


def _of_root(ctx: click.Context, name: str) -> Any:
    return ctx.find_root().obj[name]


def _load(
    ctx: click.Context, home: str | None, settings: tuple[str, ...], given: Mapping[str, Any]
) -> Any:
    from node import config

    flags = _split((*_of_root(ctx, "settings"), *settings))
    flags |= {name: value for name, value in given.items() if value not in (None, ())}
    return config.load(locate(ctx, home), flags=flags, environ=os.environ)


def _split(settings: tuple[str, ...]) -> dict[str, Any]:
    pairs = [setting.partition("=") for setting in settings]
    for name, equals, _ in pairs:
        if not equals:
            raise click.UsageError(f"--set {name}: needs SECTION.KEY=VALUE")
    return {name.strip(): value for name, _, value in pairs}


def print_json(value: Any) -> None:
    """One line of JSON on stdout."""
    import json

    click.echo(json.dumps(value, separators=(", ", ": ")))
