"""Looks for what must not be found: in files, in command lines, in environments."""

import base64
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

WINDOW: Final = 16
"""Characters of a text that are looked for together: a part of it is a find too."""
IDS: Final = 6
LOOK_S: Final = 0.05
FILE_BYTES_MAX: Final = 512 * 1024 * 1024

Needles = dict[str, list[bytes]]
"""What each is, and all its forms."""


def text_forms(text: str) -> list[bytes]:
    """Every window of a text as it might be written."""
    step = WINDOW // 2
    windows = [text[at : at + WINDOW] for at in range(0, max(1, len(text) - WINDOW + 1), step)]
    return [form for each in windows for form in _forms(each.encode())]


def secret_forms(secret: bytes) -> list[bytes]:
    """A key as it might be written: raw, hexadecimal, base64, decimal."""
    return [*_forms(secret), str(int.from_bytes(secret, "big")).encode(), secret[::-1]]


def ids_forms(ids: Iterable[int]) -> list[bytes]:
    """Token ids as numbers in a row, packed or written out."""
    found: list[bytes] = []
    row = list(ids)
    for at in range(0, len(row) - IDS + 1, IDS):
        window = row[at : at + IDS]
        for order in ("big", "little"):
            found.append(b"".join(each.to_bytes(4, order) for each in window))
        found += [", ".join(map(str, window)).encode(), ",".join(map(str, window)).encode()]
    return found


def _forms(raw: bytes) -> list[bytes]:
    found = [raw, raw.hex().encode(), raw.hex().upper().encode()]
    found.append(b"".join(bytes((each, 0)) for each in raw))  # UTF-16
    for shift in range(3):  # wherever it begins within three bytes
        encoded = base64.b64encode(bytes(shift) + raw + bytes(2))
        found.append(encoded[4 if shift else 0 : (shift + len(raw)) // 3 * 4])
    return [each for each in found if len(each) >= 8]


def in_bytes(content: bytes, needles: Needles) -> set[str]:
    """Names of what is in there."""
    return {name for name, forms in needles.items() if any(form in content for form in forms)}


def in_files(folders: Iterable[Path], needles: Needles) -> Iterator[tuple[Path, str]]:
    """Files below the folders with something in them, and what."""
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.stat().st_size <= FILE_BYTES_MAX:
                for name in in_bytes(path.read_bytes(), needles):
                    yield path, name


class ProcessWatch:
    """Reads the command line and environment of every process, again and again."""

    def __init__(self, needles: Needles) -> None:
        self._needles = needles
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.hits: set[tuple[str, str]] = set()
        self.looks = 0

    def __enter__(self) -> "ProcessWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(LOOK_S):
            for entry in os.scandir("/proc"):
                if entry.name.isdigit():
                    self._look(Path(entry.path))
            self.looks += 1

    def _look(self, process: Path) -> None:
        for name in ("cmdline", "environ"):
            try:
                content = (process / name).read_bytes()
            except OSError:
                continue  # gone, or another user's
            self.hits |= {(name, found) for found in in_bytes(content, self._needles)}
