"""What a run is worth: the versions it leaves behind that somebody may want to load, and where they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from learner.cli.run.evaluations import Evaluation, best
from learner.cli.run.run_history import Row
from learner.publish.catalog import CatalogError, base_of
from runtime.version_format.names import version_name, versions_on_disk


def worth(weights: Path, evaluations: Sequence[Evaluation], by: str | None = None) -> Row:
    """Finds the last version on disk and, if the run was evaluated, the best.

    Args:
        weights: the run's published versions.
        evaluations: of the whole run, by version.
        by: the metric that decides, "name:sampling:metric"; None: the headline metric of the first evaluation.

    Returns:
        ``last`` and ``best``, each None or with ``version``, ``path`` (None: no longer on disk), ``loads`` (whether
        the directory can be loaded as it is: a delta, or a version with a damaged manifest, cannot); the best one also has
        ``metric``, ``name``, ``sampling`` and ``value``.
    """
    on_disk = versions_on_disk(weights)
    found: Row = {"last": _version(weights, on_disk[-1]) if on_disk else None, "best": None}
    top = best(evaluations, by)
    if top is not None:
        evaluation, metric = top
        how = {"metric": metric, "name": evaluation.name, "sampling": evaluation.sampling}
        found["best"] = _version(weights, evaluation.version) | how | {"value": evaluation.metrics[metric].value}
    return found


def _version(weights: Path, version: int) -> Row:
    path = weights / version_name(version)
    try:
        loads = base_of(weights, version) is None
    except CatalogError:
        loads = False
    return {"version": version, "path": str(path) if path.is_dir() else None, "loads": loads}
