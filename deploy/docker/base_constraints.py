"""Constraints for installing on an image that brings its own torch: `base_constraints.py OURS.txt NAME[==VERSION]...`.

Prints what must stay as the base has it (the NAMEs, what they need, what needs them, numpy), and of OURS the lines about
packages that the base does not have. pip then cannot replace a package that was compiled against the base's torch: where a
requirement of ours does not fit, it says so and the build fails. Standard library only: it runs in the base.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

# Extensions are compiled against numpy's ABI as they are against torch's, without always declaring it.
_ALWAYS = ("numpy",)


def main(arguments: list[str]) -> int:
    if len(arguments) < 2:
        sys.stderr.write("usage: base_constraints.py CONSTRAINTS.txt NAME[==VERSION]...\n")
        return 2
    ours, *wanted = arguments
    versions, needs = _installed()
    for text in wanted:
        name, _, version = text.partition("==")
        found = versions.get(canonical(name))
        if found is None or version not in ("", found.partition("+")[0]):
            sys.stderr.write(f"expected {text} in the base, found {found or 'none'}: is it the image it should be?\n")
            return 1
    names = [text.partition("==")[0] for text in wanted]
    lines = constraints(Path(ours).read_text().splitlines(), versions, needs, [*names, *_ALWAYS])
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def constraints(
    ours: Iterable[str], versions: Mapping[str, str], needs: Mapping[str, set[str]], names: Iterable[str]
) -> list[str]:
    """Lines for pip's ``-c``.

    Args:
        ours: the lines of our constraints file.
        versions: canonical name -> version of what the base has.
        needs: canonical name -> what it requires, extras left out.
        names: the packages to build around.
    """
    kept = _around({canonical(name) for name in names}, needs) & versions.keys()
    free = [line for line in ours if line.strip() and not line.startswith("#")]
    return [
        *(f"{name}=={versions[name]}" for name in sorted(kept)),
        *(line for line in free if canonical(line.partition("==")[0]) not in versions),
    ]


def canonical(name: str) -> str:
    """The name as package indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _around(names: set[str], needs: Mapping[str, set[str]]) -> set[str]:
    """The packages, what they need however deep, and what directly needs one of them."""
    below, queue = set(), list(names)
    while queue:
        name = queue.pop()
        if name not in below:
            below.add(name)
            queue += needs.get(name, ())
    return below | {name for name, wanted in needs.items() if wanted & names}


def _installed() -> tuple[dict[str, str], dict[str, set[str]]]:
    versions: dict[str, str] = {}
    needs: dict[str, set[str]] = {}
    for distribution in metadata.distributions():
        name = canonical(distribution.metadata["Name"] or "")
        if name not in versions:  # the first on the path is what is imported
            versions[name] = distribution.version
            wanted = [text for text in distribution.requires or () if "extra ==" not in text]
            needs[name] = {canonical(re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0]) for text in wanted}
    versions.pop("", None)  # what a package that is gone left behind
    return versions, needs


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
