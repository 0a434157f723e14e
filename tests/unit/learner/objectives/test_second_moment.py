"""M2PO over the whole step: the limit by hand, what is masked, and the order of survey and losses."""

from __future__ import annotations

import math
import random

import pytest
import torch

from learner import objectives
from learner.config.objective import ObjectiveConfig
from learner.objectives import MissingInputError, Objective, Responses
from learner.objectives.second_moment import M2po
from learner.telemetry.diagnostics import ratios

# log r of a step's tokens and their advantages: the first four move outward, the last two back towards mu
LOG_R = [0.1, -0.2, 0.3, -0.5, 2.0, -3.0]
ADVANTAGE = [1.0, -1.0, 1.0, -1.0, -1.0, 1.0]


def step(log_r: list[float], advantage: list[float]) -> tuple[torch.Tensor, Responses]:
    """One response of one token each, of weight 1."""
    logp = torch.full((len(log_r),), -4.0, dtype=torch.float64, requires_grad=True)
    behaviour = logp.detach() - torch.tensor(log_r, dtype=torch.float64)
    rows = torch.arange(len(log_r))
    return logp, Responses(rows, torch.tensor(advantage), torch.ones(len(log_r)), behaviour)


def slopes(chosen: Objective, logp: torch.Tensor, responses: Responses) -> list[float]:
    loss, _ = chosen(logp, responses)
    (gradient,) = torch.autograd.grad(loss, logp)
    return gradient.tolist()


def surveyed(log_r: list[float], advantage: list[float], **constants: float) -> M2po:
    chosen = M2po(over="batch", **constants)
    chosen.survey(torch.tensor(log_r), torch.tensor(advantage))
    return chosen


def test_the_farthest_tokens_that_move_outward_are_masked_and_no_others():
    """Outward squares 0.01, 0.04, 0.09, 0.25: the means 0.01, 0.025, 0.047 exceed 0.04 at the third."""
    found = slopes(surveyed(LOG_R, ADVANTAGE), *step(LOG_R, ADVANTAGE))
    kept = [math.exp(r) * -a for r, a in zip(LOG_R, ADVANTAGE, strict=True)]
    assert found == pytest.approx([kept[0], kept[1], 0, 0, kept[4], kept[5]])


def test_a_token_is_on_the_same_side_of_the_limit_when_the_training_pass_rounds_differently():
    """The limit is (0.04 + 0.09) / 2 = 0.065: neither 0.2 nor 0.3 is near its root, 0.255."""
    nudged = [r * (1 + 1e-4) for r in LOG_R]
    masked = [slope == 0 for slope in slopes(surveyed(LOG_R, ADVANTAGE), *step(nudged, ADVANTAGE))]
    assert masked == [False, False, True, True, False, False]


def test_other_responses_outweigh_a_far_token_as_they_do_not_within_its_own():
    log_r, advantage = [0.5] + [0.01] * 9, [1.0] * 10  # (0.25 + 9 * 0.0001) / 10 = 0.025
    assert slopes(surveyed(log_r, advantage), *step(log_r, advantage))[0] == pytest.approx(-math.exp(0.5))
    assert slopes(M2po(), *step(log_r, advantage))[0] == 0
    assert slopes(surveyed(log_r, advantage, threshold=0.02), *step(log_r, advantage))[0] == 0


@pytest.mark.parametrize("noise", [1e-6, -1e-6])
def test_tokens_of_the_current_version_do_not_dilute_the_mean_by_rounding(noise: float):
    """Nine log-ratios are rounding, whose sign depends on the layout of the ranks; the one that moved has 0.25."""
    log_r, advantage = [0.5] + [noise] * 9, [1.0] * 10
    assert slopes(surveyed(log_r, advantage), *step(log_r, advantage))[0] == 0


def test_a_step_whose_every_outward_token_is_too_far_masks_them_all():
    assert slopes(surveyed([0.9, -0.8], [1.0, -1.0]), *step([0.9, -0.8], [1.0, -1.0])) == [0, 0]


def test_the_limit_agrees_with_masking_one_token_after_the_other():
    """The paper's loop on random steps, also with equal tokens, which are masked together. No mean is close to 0.0417."""
    draw = random.Random(5)
    for _ in range(50):
        log_r = [round(draw.gauss(0, 0.3), 1) for _ in range(draw.randint(1, 40))]
        advantage = [draw.choice([-1.0, 0.5]) for _ in log_r]
        outward = sorted(r * r for r, a in zip(log_r, advantage, strict=True) if r * a > 0)
        kept = list(outward)
        while kept and math.fsum(kept) / len(kept) > 0.0417:
            kept = [square for square in kept if square < kept[-1]]
        masked = [slope == 0 for slope in slopes(surveyed(log_r, advantage, threshold=0.0417), *step(log_r, advantage))]
        most = kept[-1] if kept else -1.0
        assert masked == [r * a > 0 and r * r > most + 1e-9 for r, a in zip(log_r, advantage, strict=True)]


def test_a_step_needs_a_survey_of_its_own():
    chosen = M2po(over="batch")
    with pytest.raises(MissingInputError, match="needs the survey of the whole step"):
        chosen(*step(LOG_R, ADVANTAGE))
    chosen.survey(torch.tensor(LOG_R), torch.tensor(ADVANTAGE))
    assert chosen(*step(LOG_R, ADVANTAGE))[1]["clipped_sum"] == 2
    assert chosen(*step(LOG_R, ADVANTAGE))[1]["clipped_sum"] == 2  # every micro-batch of the step has the limit
    chosen.observe({})
    with pytest.raises(MissingInputError, match="needs the survey of the whole step"):
        chosen(*step(LOG_R, ADVANTAGE))


def test_the_limit_is_a_metric_of_the_step_however_it_is_cut():
    """The limit of (log r)^2 is 0.065 (above): two micro-batches report the same root."""
    chosen, sums = surveyed(LOG_R, ADVANTAGE), dict[str, float]()
    for part in (slice(0, 2), slice(2, 6)):
        for name, value in chosen(*step(LOG_R[part], ADVANTAGE[part]))[1].items():
            sums[name] = sums.get(name, 0.0) + float(value)
    assert ratios(sums)["m2po_limit"] == pytest.approx(math.sqrt(0.065))
    nobody = surveyed([0.1, -0.1], [1.0, -1.0])(*step([0.1, -0.1], [1.0, -1.0]))[1]
    assert nobody.keys() == chosen(*step(LOG_R, ADVANTAGE))[1].keys(), "every rank must know the names beforehand"
    assert ratios({name: float(value) for name, value in nobody.items()})["m2po_limit"] is None
    assert not [name for name in M2po()(*step(LOG_R, ADVANTAGE))[1] if name.startswith("m2po")]


def test_only_the_paper_s_variant_asks_for_a_survey_and_added_terms_pass_it_on():
    assert not objectives.get(ObjectiveConfig(name="m2po")).needs_survey
    chosen = objectives.get(ObjectiveConfig(name="m2po", m2po_over="batch", entropy_coef=0.1))
    assert chosen.needs_survey
    logp, responses = step(LOG_R, ADVANTAGE)
    responses = Responses(
        responses.row,
        responses.advantage,
        responses.weight,
        responses.behaviour_logp,
        entropy=torch.ones(6, requires_grad=True),
    )
    chosen.survey(torch.tensor(LOG_R), torch.tensor(ADVANTAGE))
    assert chosen(logp, responses)[1]["clipped_sum"] == 2
