"""How deeply JSON is nested: what a reader took may be too deep for the next one."""

from typing import Any, Final

DEPTH_MAX: Final = 64
"""Objects and lists inside each other; other readers break between 100 and 1,000."""


def is_shallow(document: Any) -> bool:
    """Whether nothing in it is nested more deeply than `DEPTH_MAX`."""
    level = [document]
    for _ in range(DEPTH_MAX + 1):
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return True
    return False
