"""What a chat template may do: each step, and each character that it makes, is paid for."""

from typing import Any, Final, TypeVar

from jinja2.exceptions import SecurityError

T = TypeVar("T")

STEP: Final = 50
"""Price of anything that runs Python; a character that is copied costs 1."""
VALUE_MAX: Final = 4_000_000
"""Characters or items of any single value."""


class Budget:
    """What one rendering may still spend."""

    def __init__(self, work: int) -> None:
        self._left = work

    def refill(self, work: int) -> None:
        """For the next rendering."""
        self._left = work

    def spend(self, amount: int) -> None:
        """Take from the budget.

        Raises:
            SecurityError: It is used up.
        """
        self._left -= amount
        if self._left < 0:
            raise SecurityError("the template does too much")

    def made(self, value: T) -> T:
        """Pay for a new value, and refuse a huge one."""
        count = size(value)
        check_size(count)
        self.spend(STEP + count)
        return value

    def walked(self, value: T) -> T:
        """Pay for a value with everything inside it, as often as it is inside."""
        waiting: list[Any] = [value]
        while waiting:
            item = waiting.pop()
            self.spend(STEP + size(item))
            if isinstance(item, dict):
                waiting += item.keys()
                waiting += item.values()
            elif isinstance(item, list | tuple):
                waiting += item
        return value

    def step(self) -> str:
        """Pay for one turn; the empty text can stand in a template."""
        self.spend(STEP)
        return ""

    def shown(self, value: Any) -> str:
        """A value as a template shows it."""
        return self.made(value if type(value) is str else str(self.walked(value)))

    def joined(self, *values: Any) -> str:
        """What `a ~ b` gives."""
        texts = [self.shown(value) for value in values]
        check_size(sum(map(len, texts)))
        return self.made("".join(texts))


def size(value: Any) -> int:
    """Characters or items of a value."""
    return len(value) if isinstance(value, str | bytes | list | tuple | dict | range) else 0


def check_size(count: int) -> None:
    """
    Raises:
        SecurityError: No value may be so large.
    """
    if count > VALUE_MAX:
        raise SecurityError("the template makes too large a value")
