"""The root of the command line, and what every command's end looks like."""

import importlib
import os
import sys
from collections.abc import Iterator

import click

from node.cli.verbs import VERBS
from node.errors import ExitCode, NodeError


class LazyGroup(click.Group):
    """A group that knows its verbs' names and help, and imports a verb when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """In the order in which a newcomer needs them."""
        return list(VERBS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002
        cmd_name: str,
    ) -> click.Command | None:
        """Import the module that the verb is in."""
        if cmd_name not in VERBS:
            return None
        module, _, attribute = VERBS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """With a suggestion for a verb that does not exist."""
        if args[0] not in VERBS and not args[0].startswith("-"):
            raise click.NoSuchCommand(args[0], possibilities=VERBS, ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002
        formatter: click.HelpFormatter,
    ) -> None:
        """From the table of verbs: help imports no command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in VERBS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--home", help="Data directory; or GPUNODE_HOME.", type=click.Path(file_okay=False))
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="A setting.")
@click.pass_context
def root(ctx: click.Context, home: str | None, settings: tuple[str, ...]) -> None:
    """A peer-to-peer market for GPU inference.

    Anything that is not one of these commands goes to the real Node.js.
    """
    ctx.obj = {"home": home, "settings": settings}


def run(program: str) -> int:
    """Run the command line; returns the exit code.  No traceback unless GPUNODE_DEBUG is set."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    try:
        result = root.main(arguments, prog_name=program, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output is gone: say nothing, not even from the interpreter's flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    except (BaseExceptionGroup, NodeError, click.Abort, KeyboardInterrupt) as error:
        return _failed(error)
    return result if isinstance(result, int) else ExitCode.OK


def _failed(error: BaseException) -> int:
    """One line about what ended the command.  A bug in our code keeps its traceback."""
    leaves = list(_leaves(error))
    expected = [leaf for leaf in leaves if isinstance(leaf, NodeError)]
    interrupted = [leaf for leaf in leaves if isinstance(leaf, KeyboardInterrupt | click.Abort)]
    if os.environ.get("GPUNODE_DEBUG") or len(expected) + len(interrupted) < len(leaves):
        raise error
    if interrupted:
        click.echo("interrupted", err=True)
        return ExitCode.INTERRUPTED
    from node.app.terminal import one_line

    first = expected[0]
    click.echo(f"error: {one_line(str(first))}", err=True)
    if first.hint:
        click.echo(f"hint: {first.hint}", err=True)
    return first.exit_code


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors inside trio's groups."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
