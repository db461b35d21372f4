"""What the checks of `node doctor` find."""

from dataclasses import dataclass
from typing import Any, Literal

from node.errors import NodeError

Status = Literal["ok", "warning", "problem", "skipped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found."""

    name: str
    status: Status
    detail: str
    fix: str = ""
    """A command or a setting; empty where there is nothing to do."""
    rows: tuple[str, ...] = ()
    """More to show below it."""
    model: dict[str, Any] | None = None
    """Of a server's model: its name, what it can do, and the tier that follows."""

    def to_json(self) -> dict[str, Any]:
        """For `node doctor --json`: rows say to people what `model` says to programs."""
        found = {
            "name": self.name, "status": self.status, "detail": self.detail, "fix": self.fix,
        }  # fmt: skip
        return found if self.model is None else {**found, "model": self.model}


def failed(name: str, error: NodeError) -> Finding:
    """A check that could not be made."""
    return Finding(name=name, status="problem", detail=str(error), fix=error.hint)
