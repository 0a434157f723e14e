"""URIs of versions: what they name, and the tricks that are refused."""

from __future__ import annotations

import pytest

from runtime.version_format.places import Place, place_of


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("file:///var/lib/weights", Place("file", "", ("var", "lib", "weights"))),
        ("file://localhost/a%20b/", Place("file", "", ("a b",))),
        ("file:///", Place("file", "", ())),
        ("s3://bucket/run/weight_v000001", Place("s3", "bucket", ("run", "weight_v000001"))),
        ("s3://bucket", Place("s3", "bucket", ())),
        ("s3://bucket/a b", Place("s3", "bucket", ("a b",))),
        ("https://host:8443/w", Place("https", "host:8443", ("w",))),
    ],
)
def test_what_a_uri_names(uri: str, place: Place):
    assert place_of(uri) == place


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("/plain/path", "no scheme"),
        ("S3://bucket/w", "no scheme"),
        ("file:/w", "no scheme"),
        ("", "no scheme"),
        ("file:///w/../etc", r"\.\."),
        ("file:///w/%2e%2e/etc", r"\.\."),
        ("file:///w/%2E./etc", r"\.\."),
        ("file:///w%2f..%2fetc", r"\.\."),
        ("file:///w//etc", "//"),
        ("file:////etc", "//"),
        ("file:///w/./x", r"\."),
        ("file://other/w", "another machine"),
        ("file:///w/%00", "control"),
        ("file:///w/..\\etc", "backslashes"),
        ("s3://bucket/\tw", "control"),
        ("s3://bucket/run/../other", r"\.\."),
        ("s3://bucket/run/%2e%2e/other", "encoded"),
        ("s3://bucket@evil/run", "user name"),
        ("s3://user:password@bucket/run", "user name"),
        ("s3:///run", "no bucket"),
        ("simplecache::s3://bucket/run", "no scheme"),
        ("s3://bucket/run::file:///etc", "chain"),
        ("https://host/run?to=elsewhere", "query"),
        ("https://host/run#x", "fragment"),
        ("https://[bad/run", "no URI"),
    ],
)
def test_what_may_hide_where_it_leads_is_refused(uri: str, reason: str):
    with pytest.raises(ValueError, match=reason):
        place_of(uri)


def test_a_place_contains_what_is_below_it_and_no_more():
    run = place_of("s3://bucket/run")
    for uri, inside in {
        "s3://bucket/run": True,
        "s3://bucket/run/weight_v000001": True,
        "s3://bucket/run-of-another/w": False,
        "s3://bucket/other": False,
        "s3://bucket": False,
        "s3://bucket.evil/run/w": False,
        "gs://bucket/run/w": False,
    }.items():
        assert run.contains(place_of(uri)) is inside, uri
