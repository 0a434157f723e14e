"""A published version of a run, opened on the model that its adapters change. No torch."""

from __future__ import annotations

from learner.cli.run.run_directory import RunDirectory
from learner.cli.run.run_file import RunFile
from learner.publish.catalog import read_manifest
from learner.publish.reader import VersionReader


def opened_version(run: RunDirectory, version: int) -> VersionReader:
    """Opens a version of a run.

    An adapter names its base by the path that it had for the learner then. The run's own model is read in its place, where
    it exists: the run may have been restored, or mounted, elsewhere.

    Raises:
        CatalogError: the version, or one that it is built on, cannot be read.
        SettingsError: run.json is damaged.
    """
    if not read_manifest(run.weights, version).HasField("adapter"):
        return VersionReader(run.weights, version)
    model = RunFile.read(run.root).model_directory()
    return VersionReader(run.weights, version, model if model.is_dir() else None)
