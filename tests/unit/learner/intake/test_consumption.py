"""The mean of what steps consume, by hand."""

from learner.intake.consumption import Consumption


def test_the_mean_follows_the_steps_by_a_fifth_and_is_rounded_up():
    mean = Consumption(16, 64)
    assert mean.groups == 16
    mean.add(64)  # 16 + 0.2 * 48 = 25.6
    assert mean.groups == 26
    mean.add(64)  # 25.6 + 0.2 * 38.4 = 33.28
    assert mean.groups == 34
    for _ in range(60):
        mean.add(16)
    assert mean.groups == 16


def test_what_an_earlier_learner_reported_is_where_it_begins_within_the_bounds():
    assert [Consumption(16, 64, known).groups for known in (0, 40, 9, 1000)] == [16, 40, 16, 64]
