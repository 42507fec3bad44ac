"""Files that are there whole or not at all, whenever the process is killed.

One can
- replace a text file (`write_whole`).
"""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """The file has the old content or the new."""
    part = path.with_suffix(".part")
    part.write_text(text)
    os.replace(part, path)
