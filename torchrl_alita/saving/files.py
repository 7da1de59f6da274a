"""Files that are whole or not there."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: str | Path, text: str) -> None:
    """Write a file such that a process killed at any moment leaves the old or the new one.

    Args:
        path: of the file.
        text: its content.

    Raises:
        OSError: if it cannot be written; the old one stays, and nothing beside it.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "summary.json"
        >>> write_whole(path, "{}")
        >>> path.read_text()
        '{}'
    """
    unfinished = Path(path).with_name(f".{Path(path).name}.unfinished")
    try:
        with unfinished.open("w", newline="") as file:
            file.write(text)
        unfinished.replace(path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise
