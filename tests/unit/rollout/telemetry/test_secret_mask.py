"""Secrets in texts: what is replaced, and what is left alone."""

from __future__ import annotations

import pytest

from rollout.telemetry.secret_mask import SecretMask

KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nAAAA\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("key sk-proj-abcdefghijklmnop0123 end", "key *** end"),
        ("sk-ant-api03-AAAAAAAAAAAAAAAAAAAA", "***"),
        ("Authorization: Bearer abcdefghijklmnop.qrst==, ok", "Authorization: ***, ok"),
        ("AKIAABCDEFGHIJKLMNOP and ASIAABCDEFGHIJKLMNOP", "*** and ***"),
        ('{"aws_secret_access_key": "' + "a/b+" * 10 + '"}', '{"***"}'),
        ("export AWS_SECRET_ACCESS_KEY=" + "a/b+" * 10, "export ***"),
        ('"SecretAccessKey": "' + "a/b+" * 10 + '"', '"***"'),
        ("ghp_" + "a1" * 18, "***"),
        ("hf_" + "aB" * 17, "***"),
        (f"before\n{KEY}\nafter", "before\n***\nafter"),
        (KEY.replace("\n", "\\n"), "***"),
        (KEY[:50], "***"),  # the rest was cut off
    ],
)
def test_the_usual_secrets_are_replaced(text: str, masked: str):
    found, count = SecretMask().apply(text)
    assert found == masked
    assert count == masked.count("***")


@pytest.mark.parametrize(
    "text",
    [
        "risk-averse-optimization-method sk-short",
        "The bearer of bad news",
        "Bearer of news",
        "-----BEGIN CERTIFICATE-----",
        "hf_hub",
    ],
)
def test_words_that_are_no_secrets_stay(text: str):
    assert SecretMask().apply(text) == (text, 0)


def test_patterns_of_ones_own_are_looked_for_too():
    mask = SecretMask([r"(?i)canary-\d+", r"(a)\1{5}"])
    assert mask.apply("CANARY-17, aaaaaa, sk-abcdefghijklmnopqrst") == ("***, ***, ***", 3)


def test_half_a_surrogate_pair_can_be_written_afterwards():
    text, count = SecretMask().apply("ä\ud800b\u2028")
    assert (text, count) == ("ä?b\u2028", 0)
