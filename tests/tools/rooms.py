"""The list of rooms in README.md and docs/architecture.md: `python -m tests.tools.rooms [--write]`.

It is made from the first docstring line of every room.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- rooms: made by `python -m tests.tools.rooms --write` -->", "<!-- end of rooms -->"
_PACKAGES = ("learner", "rollout", "runtime")
_OTHERS = {
    "proto/leeway/v1/": "The wire contract, which is the specification, and its committed stubs.",
    "configs/": "Run files: one TOML file is one run.",
    "deploy/": "Images, Kubernetes, Prometheus, Grafana, the runbook.",
    "docs/": "The architecture on one page, and the objectives with their formulas and sources.",
    "tests/": "unit (mirrors the rooms), service, parallel, e2e, chaos, deploy, bench, gpu, soak, fuzz, families, tools.",
}


def first_line(path: Path) -> str:
    """The first line of a module's docstring; empty where it has none."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def rooms() -> dict[str, str]:
    """Each room's path and what its first docstring line says; a package's own files stand before its rooms."""
    found: dict[str, str] = {}
    for package in _PACKAGES:
        found[f"{package}/"] = first_line(ROOT / package / "__init__.py")
        entries = sorted((ROOT / package).iterdir(), key=lambda path: (path.is_dir(), path.name))
        for path in entries if package != "runtime" else []:
            if path.suffix == ".py" and path.stem not in ("__init__", "__main__"):
                found[f"{package}/{path.name}"] = first_line(path)
            elif (path / "__init__.py").is_file():
                found[f"{package}/{path.name}/"] = first_line(path / "__init__.py")
    return found | _OTHERS


def text(document: Path) -> str:
    """The table of rooms between its two marks, with links that work from ``document``."""
    up = "../" * (len(document.relative_to(ROOT).parts) - 1)
    rows = [f"| [{path}]({up}{path}) | {says} |" for path, says in rooms().items()]
    return "\n".join([BEGIN, "| room | what is in it |", "|---|---|", *rows, END])


def main(arguments: list[str]) -> int:
    """Writes or checks the documents; returns the exit status."""
    status = 0
    for document in (ROOT / "README.md", ROOT / "docs" / "architecture.md"):
        before = document.read_text()
        head, _, rest = before.partition(BEGIN)
        after = head + text(document) + rest.partition(END)[2]
        if "--write" in arguments:
            document.write_text(after)
        elif after != before:
            name = document.relative_to(ROOT)
            print(f"{name} lists other rooms than the code: run `python -m tests.tools.rooms --write` and commit")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
