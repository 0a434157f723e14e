"""`leeway config --presets`: every preset with what it is, where its values are from, and what it sets."""

from __future__ import annotations

import json

from learner.cli.settings.keys import default_text
from learner.config.presets import PRESETS


def presets_text(as_json: bool = False) -> str:
    """All presets, as text whose settings can be copied into a run file, or as a JSON array."""
    if as_json:
        rows = [
            {"name": name, "summary": one.summary, "source": one.source, "settings": settings(name)}
            for name, one in PRESETS.items()
        ]
        return json.dumps(rows, indent=2, ensure_ascii=False)
    parts = ["# learner.objective.preset = NAME: what a run file sets itself wins over the preset's values."]
    for name, preset in PRESETS.items():
        lines = ["", f"# {name}: {preset.summary}", f"# Source: {preset.source}"]
        parts += [*lines, *(f"{key} = {default_text(value)}" for key, value in settings(name).items())]
    return "\n".join(parts)


def settings(name: str) -> dict[str, object]:
    """The keys of a run file that a preset sets, with their values."""
    return {f"learner.{key}": value for key, value in PRESETS[name].flat().items()}
