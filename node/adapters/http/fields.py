"""Fields of a JSON body: each is taken once, within its range, and none is left over."""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from node.adapters.http.errors import ApiError, bad_field, unsupported

T = TypeVar("T")

TEXT_CHARS_MAX: Final = 2 * 1024 * 1024
"""Of one text; the body as a whole has a limit of its own."""
LABEL_CHARS_MAX: Final = 512
"""Of what only names something."""


class Fields:
    """An object's fields.  A null is a field that is not there."""

    def __init__(self, document: Any, path: str = "") -> None:
        """
        Args:
            document: What the JSON decoder made.
            path: Where the object is in the body; empty for the body itself.

        Raises:
            ApiError: It is no object.
        """
        if not isinstance(document, dict):
            raise ApiError(
                400, f"{path or 'the body'} must be an object", code="invalid_type",
                param=path or None,
            )  # fmt: skip
        self._left = {name: value for name, value in document.items() if value is not None}
        self._path = path

    def name(self, field: str) -> str:
        """A field's name, as seen from the body."""
        return f"{self._path}.{field}" if self._path else field

    def take(self, field: str) -> Any:
        """Whatever it is, or None."""
        return self._left.pop(field, None)

    def number(
        self, field: str, low: float, high: float, default: float | None = None
    ) -> float | None:
        """A number within a range; a default where there is none."""
        value = self.take(field)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise bad_field(self.name(field), "must be a number")
        if not low <= value <= high:  # also refuses NaN
            raise bad_field(self.name(field), f"must be within {low:g} to {high:g}")
        return float(value)

    def whole(self, field: str, low: int, high: int) -> int | None:
        """A whole number within a range, or None."""
        value = self.take(field)
        if value is None:
            return None
        if type(value) is not int:
            raise bad_field(self.name(field), "must be a whole number")
        if not low <= value <= high:
            raise bad_field(self.name(field), f"must be within {low} to {high}")
        return value

    def flag(self, field: str, *, default: bool = False) -> bool:
        """True or false."""
        value = self.take(field)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise bad_field(self.name(field), "must be true or false")
        return value

    def text(self, field: str, chars_max: int = TEXT_CHARS_MAX) -> str | None:
        """A text, or None."""
        value = self.take(field)
        if value is None:
            return None
        return text_of(value, self.name(field), chars_max)

    def choice(self, field: str, options: Mapping[str, T]) -> T | None:
        """What one of several words stands for, or None."""
        value = self.take(field)
        if value is None:
            return None
        if not isinstance(value, str) or value not in options:
            raise bad_field(self.name(field), f"must be one of {', '.join(options)}")
        return options[value]

    def list_of(
        self, field: str, count_max: int, item: Callable[[Any, str], T]
    ) -> tuple[T, ...] | None:
        """A list, each item read by a function that is told where it is; or None."""
        value = self.take(field)
        if value is None:
            return None
        path = self.name(field)
        if not isinstance(value, list):
            raise bad_field(path, "must be a list")
        if len(value) > count_max:
            raise bad_field(path, f"must have at most {count_max} items")
        return tuple(item(each, f"{path}[{n}]") for n, each in enumerate(value))

    def object(self, field: str) -> "Fields | None":
        """A nested object, or None."""
        value = self.take(field)
        return None if value is None else Fields(value, self.name(field))

    def only(self, field: str, *harmless: Any, why: str) -> None:
        """Refuse any value but those that ask for nothing."""
        value = self.take(field)
        # JSON tells 0 from false, and Python does not.
        if value is not None and (type(value), value) not in [(type(v), v) for v in harmless]:
            raise unsupported(self.name(field), why)

    def ignore(self, field: str) -> None:
        """A label of the client's own, which changes no answer and is passed to nobody."""
        value = self.take(field)
        if isinstance(value, str) and len(value) > LABEL_CHARS_MAX:
            raise bad_field(self.name(field), f"must have at most {LABEL_CHARS_MAX} characters")

    def done(self) -> None:
        """
        Raises:
            ApiError: Something was not taken.
        """
        for field in self._left:
            name = self.name(field[:LABEL_CHARS_MAX])
            raise ApiError(400, f"unknown field: {name}", code="unknown_parameter", param=name)


def text_of(value: Any, path: str, chars_max: int = TEXT_CHARS_MAX) -> str:
    """A text that UTF-8 can hold.

    Raises:
        ApiError: It is none, or too long.
    """
    if not isinstance(value, str):
        raise bad_field(path, "must be text")
    if len(value) > chars_max:
        raise bad_field(path, f"must have at most {chars_max} characters")
    return value


def name_of(value: Any, path: str) -> str:
    """A short text that is not empty.

    Raises:
        ApiError: It is none.
    """
    text = text_of(value, path, LABEL_CHARS_MAX)
    if not text:
        raise bad_field(path, "must not be empty")
    return text
