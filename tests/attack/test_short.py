"""Every attack in its short form: smaller counts, no ratios of times; honest clients beside it."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.attack.harness import Attack, World, judge, open_world
from tests.attack.suite import ATTACKS

pytestmark = [pytest.mark.devnet, pytest.mark.timeout(300)]
SLOW = {1, 7, 9, 10, 11, 13, 14, 20}
"""More than ten seconds even so: left to `scripts/attack --short`."""


class Worlds:
    """One devnet at a time; kept while attacks that want the same one follow each other."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._world: World | None = None
        self._options = ""

    def of(self, attack: Attack) -> World:
        """The world that an attack wants."""
        options = repr(attack.options)
        if self._world is None or options != self._options:
            self.close()
            self._options = options
            self._world = self._stack.enter_context(open_world(attack.options, full=False))
        return self._world

    def close(self) -> None:
        """End the devnet, if there is one."""
        self._world = None
        self._stack.close()


@pytest.fixture(scope="module")
def worlds() -> Iterator[Worlds]:
    worlds = Worlds()
    yield worlds
    worlds.close()


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(
            attack,
            id=f"{attack.number:02}-{attack.name.replace(' ', '-')}",
            marks=[pytest.mark.slow] if attack.number in SLOW else [],
        )
        for attack in ATTACKS
    ],
)
def test_holds(attack: Attack, worlds: Worlds) -> None:
    figures = judge(attack, worlds.of(attack))
    failed = [str(check) for check in figures.checks if not check.passed]
    assert not failed, (failed, dict(figures.details))
