"""Content by hash in a folder, and in memory what this node serves of its own."""

import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from node.errors import ConfigError
from node.protocol.fields import Hash


class FolderFiles:
    """`ports.Files`: one file per hash; what does not match its name any more counts as absent."""

    def __init__(self, folder: Path, *, own: Iterable[bytes] = ()) -> None:
        """
        Args:
            folder: Made when the first file is kept.
            own: Contents served besides, from memory.
        """
        self._folder = folder
        self._own = {hashlib.sha256(content).digest(): content for content in own}

    def read(self, sha256: Hash) -> bytes | None:
        """The file's bytes, or None if it is not here."""
        if sha256 in self._own:
            return self._own[sha256]
        try:
            content = (self._folder / sha256.hex()).read_bytes()
        except OSError:
            return None
        return content if hashlib.sha256(content).digest() == sha256 else None

    def write(self, content: bytes) -> Hash:
        """Keep a file; returns its sha256.

        Raises:
            ConfigError: The folder can't be written.
        """
        sha256 = hashlib.sha256(content).digest()
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Written aside and renamed: a crash leaves no half file under a whole one's name.
            with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
                try:
                    file.write(content)
                    file.flush()
                    os.replace(file.name, self._folder / sha256.hex())
                except OSError:
                    Path(file.name).unlink(missing_ok=True)
                    raise
        except OSError as error:
            raise ConfigError(f"can't write to {self._folder}: {error.strerror}") from error
        return sha256
