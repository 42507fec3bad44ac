"""Files that are there whole or not at all, whenever the process is killed.

One can
- replace a text file (`write_whole`),
- write what is known as JSON that any program reads (`as_json`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def write_whole(path: Path, text: str) -> None:
    """The file has the old content or the new."""
    part = path.with_suffix(".part")
    part.write_text(text)
    os.replace(part, path)


def as_json(content: Any, *, indent: int | None = None) -> str:
    """The content in JSON, which has no word for NaN or infinity: null stands for them."""
    return json.dumps(_plain(content), indent=indent, allow_nan=False)


def _plain(content: Any) -> Any:
    if isinstance(content, np.generic):
        content = content.item()
    if isinstance(content, Mapping):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
