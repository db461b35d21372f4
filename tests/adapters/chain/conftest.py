import pytest

from node.adapters.chain import sender


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks at what is in flight as often as these tests make blocks."""
    monkeypatch.setattr(sender, "POLL_S", (0.02, 0.1))
