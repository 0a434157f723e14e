"""Whether the base's TransformerEngine is one that the installed megatron-core accepts: `transformer_engine.py`.

megatron-core imports TransformerEngine wherever it is installed, for its Adam at least. Its metadata name the releases that
it was made for under an extra that is never installed: pip does not compare them. Ends with 1, and says so, where they do
not fit. Run by the interpreter that the image starts.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from importlib import metadata

from packaging.requirements import Requirement

NAME = "transformer-engine"


def refused_by(requirements: Iterable[str], version: str) -> str:
    """The specifier that ``version`` is outside of, such as "<2.12.0,>=2.9.0a0"; "" where every one accepts it.

    Args:
        requirements: what megatron-core's metadata require.
        version: the installed TransformerEngine's. A build of a release, "2.9.0+4f1c5a3", is that release.
    """
    for text in requirements:
        requirement = Requirement(text)
        if re.sub(r"[-_.]+", "-", requirement.name).lower() != NAME:
            continue
        if not requirement.specifier.contains(version.partition("+")[0], prereleases=True):
            return str(requirement.specifier)
    return ""


def main() -> int:
    """Compares what is installed; returns the exit status."""
    try:
        version = metadata.version(NAME)
    except metadata.PackageNotFoundError:
        sys.stdout.write("no TransformerEngine: layers and optimizer are Megatron's, torch's and ours\n")
        return 0
    megatron = metadata.version("megatron-core")
    specifier = refused_by(metadata.requires("megatron-core") or (), version)
    if specifier:
        sys.stderr.write(
            f"the base has TransformerEngine {version}; megatron-core {megatron} accepts {specifier}: build with "
            "--build-arg BASE= an image whose TransformerEngine fits, or one that has none (and KEEP=torch)\n"
        )
        return 1
    sys.stdout.write(f"TransformerEngine {version}, accepted by megatron-core {megatron}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
