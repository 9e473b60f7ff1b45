"""A user's configuration folder with contexts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_contexts(folder: Path, *, current: str = "", **contexts: dict[str, Any]) -> dict[str, str]:
    """Write contexts to a configuration folder, and return the variable that names it."""
    file = folder / "rmqkit" / "config.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"current = {json.dumps(current)}"]
    for name, values in contexts.items():
        lines += [f"[contexts.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    file.write_text("\n".join(lines))
    file.chmod(0o600)
    return {"XDG_CONFIG_HOME": str(folder)}
