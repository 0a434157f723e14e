"""What a gateway may name: places that the worker's own settings list, and no way round them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollout.versions.allowed import AllowedPlaces
from rollout.versions.manifest import VersionError


@pytest.mark.parametrize(
    "uri",
    [
        "s3://other/run/weight_v000001",
        "s3://bucket/run-of-another/weight_v000001",
        "s3://bucket/run/../other/weight_v000001",
        "s3://bucket.evil/run/weight_v000001",
        "s3://bucket@evil/run/weight_v000001",
        "gs://bucket/run/weight_v000001",
        "https://169.254.169.254/latest/meta-data",
        "memory://bucket/run/weight_v000001",
        "file:///etc/weight_v000001",
        "simplecache::s3://bucket/run/weight_v000001",
    ],
)
def test_other_places_are_refused_by_name(uri: str, tmp_path: Path):
    allowed = AllowedPlaces(["s3://bucket/run", (tmp_path / "weights").as_uri()])
    with pytest.raises(VersionError) as refused:
        allowed.require(uri)
    assert (refused.value.field, repr(uri) in refused.value.value) == ("policy.uri", True)


def test_the_setting_and_its_value_are_in_the_refusal():
    with pytest.raises(VersionError, match=r"below none of allowed_uris = \['s3://bucket/run'\]"):
        AllowedPlaces(["s3://bucket/run"]).require("s3://other/run")


def test_a_symbolic_link_does_not_lead_out(tmp_path: Path):
    weights, elsewhere = tmp_path / "weights", tmp_path / "elsewhere"
    weights.mkdir()
    elsewhere.mkdir()
    (weights / "weight_v000001").symlink_to(elsewhere)
    with pytest.raises(VersionError, match=f"leads to {elsewhere}"):
        AllowedPlaces([weights.as_uri()]).require((weights / "weight_v000001").as_uri())


def test_what_is_listed_may_itself_be_a_link(tmp_path: Path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "weights").symlink_to(tmp_path / "disk")
    allowed = AllowedPlaces([(tmp_path / "weights").as_uri()])
    assert allowed.require((tmp_path / "weights" / "weight_v000001").as_uri()).scheme == "file"
