"""What a process that failed says of the reason."""

from __future__ import annotations

import json
import re


def failure_reason(output: str) -> str:
    """The reason a process gave for its failure: its last structured error, else its last exception, else its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and row.get("level") in ("error", "critical"):
            return str(row.get("error") or row.get("event"))
    for line in reversed(lines):
        if re.match(r"(\w+\.)*\w*(Error|Exception)\b.*:", line) and "ChildFailedError" not in line:
            return line
    return lines[-1] if lines else "it wrote nothing"
