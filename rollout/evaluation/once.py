"""The weights that `python -m rollout evaluate FILE --once` measures: a published version, or a Hugging Face directory."""

from __future__ import annotations

import hashlib
from pathlib import Path

from leeway.v1 import rollout_pb2
from rollout.config.evaluation import EvaluatorConfig
from rollout.versions.manifest import VersionError
from rollout.versions.verifier import Verifier, Version
from runtime.settings import SettingsError
from runtime.version_format.names import MANIFEST, version_name
from runtime.version_format.places import place_of


def weights_of(config: EvaluatorConfig, verifier: Verifier) -> Version:
    """Returns the weights to evaluate, ready to be loaded. Blocks.

    A published version is verified, and rebuilt if it is a delta; a directory is taken as it is.

    Args:
        config: of the evaluator.
        verifier: verifies published versions.

    Raises:
        SettingsError: the version is not on this machine.
        VersionError: it is damaged, or not of this model.
    """
    if config.version is None:
        return _staged(config)
    if not config.allowed_uris:
        raise SettingsError(f"version = {config.version}: allowed_uris is empty: name the directory of the versions")
    root = config.allowed_uris[0].rstrip("/")
    directory = Path(place_of(root).path) / version_name(config.version)
    try:
        digest = hashlib.sha256((directory / MANIFEST).read_bytes()).hexdigest()
    except OSError as error:
        present = ", ".join(sorted(path.name for path in directory.parent.glob("weight_v*"))) or "none"
        raise SettingsError(
            f"version = {config.version}: {directory}: no such version on this machine any more; there: {present}"
        ) from error
    uri = f"{root}/{version_name(config.version)}"
    return verifier.verify(rollout_pb2.Policy(version=config.version, uri=uri, manifest_sha256=digest))


def _staged(config: EvaluatorConfig) -> Version:
    """A directory in the form of a version: links to the files of the model directory, and a manifest that says nothing."""
    staged = config.state_dir / version_name(0)
    staged.mkdir(parents=True, exist_ok=True)
    for path in config.model.iterdir():
        link = staged / path.name
        link.unlink(missing_ok=True)
        link.symlink_to(path.resolve())
    if not list(staged.glob("*.safetensors")):
        raise VersionError("model", f"{config.model} holds no *.safetensors")
    (staged / MANIFEST).unlink(missing_ok=True)
    (staged / MANIFEST).write_text("{}\n")
    return Version(0, staged)
