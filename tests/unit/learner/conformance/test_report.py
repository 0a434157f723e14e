"""A conformance report has one verdict for each rule, and conforms only if something was tried and nothing broken."""

from __future__ import annotations

from learner.conformance.report import Report

RULES = {"one": "the first rule", "two": "the second rule"}


def test_a_rule_is_untried_kept_or_broken_and_stays_broken():
    report = Report(RULES)
    assert not report.conforms  # nothing was tried
    report.kept("one")
    assert report.conforms
    report.broken("one", "this happened")
    report.kept("one")
    assert [rule.state for rule in report.rules] == ["broken", "not tried"]
    assert not report.conforms


def test_a_check_returns_what_it_was_told():
    report = Report(RULES)
    assert report.check("one", True, "never shown")
    assert not report.check("two", False, "shown")
    assert [rule.state for rule in report.rules] == ["ok", "broken"]


def test_the_text_names_every_rule_its_faults_once_and_why_one_was_not_tried():
    report = Report(RULES)
    for _ in range(3):
        report.broken("one", "this happened")
    report.skipped("two", "no lease was granted")
    text = report.lines()
    assert [line.strip() for line in text] == [
        "broken  one: the first rule",
        "this happened",
        "not tried  two: the second rule",
        "no lease was granted",
        "0 rules kept, 1 broken, 1 not tried",
    ]


def test_no_more_than_five_faults_of_a_rule_are_kept():
    report = Report(RULES)
    for number in range(100):
        report.broken("one", str(number))
    assert report.rules[0].faults == ["0", "1", "2", "3", "4"]
