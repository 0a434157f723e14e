"""Objectives built from a configuration: names, constants, entry points, state, added terms."""

from importlib.metadata import EntryPoint, EntryPoints

import pytest
import torch

from learner import objectives
from learner.config import objective as objective_config
from learner.config.objective import ObjectiveConfig
from learner.config.objectives_table import OBJECTIVES
from learner.objectives import Loss, MissingInputError, Objective, Responses
from learner.objectives.policy_gradient import Reinforce
from learner.objectives.ratio import Tis
from learner.objectives.regularised import Regularised
from runtime.settings import SettingsError
from tests.tools.objective_cases import evaluate, objective, random_groups


def parse(**values: object) -> ObjectiveConfig:
    return ObjectiveConfig.parse(values, "f.toml")


def test_every_name_is_built_and_a_configuration_survives_its_file(tmp_path):
    for name in OBJECTIVES:
        assert isinstance(objectives.get(parse(name=name)), Objective)
        parse(name=name).write(tmp_path / "objective.json")
        assert ObjectiveConfig.load(tmp_path / "objective.json") == parse(name=name)


def test_asympo_has_the_guard_by_default_and_off_is_the_papers_formula():
    assert parse(name="asympo").rho_max == 0.1
    assert parse(name="asympo", rho_max="off").rho_max is None
    assert objectives.get(parse(name="asympo")).state_dict() == {"positive": 0.0, "negative": 0.0}
    assert objectives.get(parse(name="asympo", rho_max="off")).state_dict() == {}


def test_our_default_is_spo_with_small_negatives():
    assert (parse().name, parse().spo_alpha, parse().advantage) == ("spo", 0.1, "std")
    assert parse(kl_coef=0.1).spo_alpha == 0.1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "grp0"}, r"f\.toml: name = 'grp0': no such objective; known: .*dr_grpo, drpo"),
        ({"name": "spo", "rho_max": 0.2}, r"rho_max = 0\.2: spo does not read it, only asympo; leave it out"),
        (
            {"name": "reinforce", "clip_high": 0.2},
            r"clip_high = 0\.2: reinforce does not read it, only grpo, dr_grpo, cispo, gspo",
        ),
        ({"name": "asympo", "options": {"x": 1}}, r"asympo does not read it, only objectives of other distributions"),
        ({"rho_max": 0.2}, r"rho_max = 0\.2: spo does not read it, only asympo; leave it out"),
        ({"name": "asympo", "rho_max": 0}, r"rho_max = 0: Input should be greater than 0"),
        ({"name": "asympo", "p_low": 0.9, "p_high": 0.5}, r"p_low = 0\.9 must be below p_high = 0\.5"),
        ({"name": "dr_grpo", "advantage": "std"}, r"dr_grpo is GRPO without the standard deviation"),
        ({"name": "dr_grpo", "advantage": "std_unbiased"}, r"'std_unbiased': dr_grpo is GRPO without the standard dev"),
        ({"name": "grpo", "dual_clip": 1.0}, r"dual_clip = 1\.0: Input should be greater than 1"),
        (
            {"name": "gspo", "dual_clip": 5},
            r"dual_clip = 5\.0: gspo does not read it, only grpo, dr_grpo; leave it out",
        ),
        ({"name": "spo", "dual_clip": "off"}, r"dual_clip = None: spo does not read it"),
        ({"name": "gspo", "mean": "batch"}, r"mean = 'batch': gspo has no choice: its ratio is the whole response's"),
        (
            {"name": "topr", "mean": "group"},
            r"topr has no choice: .* a sum over tokens; leave it out, or use spo, reinf",
        ),
        ({"name": "dr_grpo", "mean": "batch"}, r"dr_grpo has no choice: .*constant dr_grpo_length"),
        ({"name": "asympo", "mean": "response"}, r"mean = 'response': asympo has no choice: .*length cancels"),
        ({"name": "asymre", "mean": "batch"}, r"asymre has no choice"),
        ({"name": "sft", "mean": "batch"}, r"sft has no choice: it is the mean over the step's tokens"),
        ({"name": "grpo", "mean": "sum"}, r"mean = 'sum': Input should be 'response', 'group' or 'batch'"),
        ({"name": "dppo", "dppo_bound": 0.1}, r"dppo_bound"),
        ({"name": "grpo", "kl_estimator": "k3_weighted"}, r"'k3_weighted': nothing reads it while kl_coef = 0"),
        (
            {"name": "spo", "kl_coef": 0.1, "kl_estimator": "k3_weighted"},
            r"kl_estimator = 'k3_weighted': spo has no behaviour probabilities to take a ratio with; use 'k3', or an",
        ),
        ({"name": "sft", "kl_coef": 0.1}, r"sft is for warm starts"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_field_and_what_to_do(values: dict[str, object], message: str):
    with pytest.raises(SettingsError, match=message):
        parse(**values)


def test_constants_reach_the_objective():
    """Each constant changes the gradient of the objective that reads it."""
    groups = random_groups(11, [[1.0, 0.0, 0.0], [0.0, 1.0], [1.0, 0.5, 0.0]])
    changed = {
        "spo": {"spo_alpha": 0.5}, "opmd": {"opmd_tau": 2.0}, "asymre": {"asymre_shift": 0.3}, "tis": {"tis_cap": 1.01},
        "asympo": {"scale_floor": 2.0}, "grpo": {"clip_low": 0.01, "clip_high": 0.01}, "dr_grpo": {"dr_grpo_length": 8},
        "grpo_free": {"advantage": "std_unbiased"}, "dapo": {"dual_clip": 1.01}, "tis_batch": {"mean": "group"},
        "dppo_group": {"dppo_low": 1e-3}, "dppo_prime": {"dppo_kl": 1.0}, "m2po_batch": {"m2po_over": "response"},
        "cispo": {"clip_high": 0.01}, "gspo": {"clip_low": 0.9, "clip_high": 9.0}, "drpo": {"drpo_delta": 0.5},
        "dppo": {"dppo_high": 1e-3}, "m2po": {"m2po_threshold": 1e-3}, "positives": {"advantage": "std"},
        "topr": {"advantage": "leave_one_out"},
    }  # fmt: skip
    for name, constants in changed.items():
        before, after = (evaluate(groups, objective(name, **c))[1] for c in ({}, constants))
        assert not torch.allclose(before, after), name


def test_the_divisor_of_dr_grpo_is_1024_where_no_run_file_gives_one():
    groups = random_groups(11, [[1.0, 0.0, 0.0], [0.0, 1.0]])
    unset, set_, half = (evaluate(groups, objective("dr_grpo", dr_grpo_length=n))[1] for n in (None, 1024, 512))
    assert torch.equal(unset, set_)
    torch.testing.assert_close(half, 2 * unset)


class Elsewhere(Objective):
    """An objective of another distribution: the sum of all log-probabilities, times a constant."""

    def __init__(self, config: ObjectiveConfig) -> None:
        self.factor = config.options["factor"]

    def loss(self, logp: torch.Tensor, responses: Responses) -> Loss:
        return -self.factor * self.reduce(logp, responses), {}


def not_an_objective(config: ObjectiveConfig) -> object:
    return len


def install(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """Pretends that a distribution with this entry point is installed."""
    point = EntryPoint(name, f"tests.unit.learner.objectives.test_registry:{value}", objective_config.GROUP)

    def entry_points(group: str) -> EntryPoints:
        return EntryPoints([point] if group == objective_config.GROUP else [])

    monkeypatch.setattr(objective_config, "entry_points", entry_points)


def test_an_entry_point_adds_an_objective(monkeypatch: pytest.MonkeyPatch):
    install(monkeypatch, "mine", "Elsewhere")
    assert "mine" in objectives.names()
    chosen = objectives.get(parse(name="mine", options={"factor": 3.0}, advantage="std"))
    loss, metrics = chosen(torch.tensor([-1.0, -2.0]), Responses(torch.tensor([0, 0]), torch.ones(1), torch.ones(1)))
    assert loss.item() == pytest.approx(4.5)
    assert metrics["rho_sum"].item() == 0
    with pytest.raises(SettingsError, match=r"spo_alpha = 0\.5: mine does not read it"):
        parse(name="mine", spo_alpha=0.5)
    with pytest.raises(SettingsError, match=r"mean = 'batch': mine has no choice: its own code decides"):
        parse(name="mine", mean="batch")
    weighted = parse(name="mine", options={"factor": 3.0}, kl_coef=0.1, kl_estimator="k3_weighted")
    with pytest.raises(SettingsError, match=r"'k3_weighted': mine has no behaviour probabilities"):
        objectives.get(weighted)


def test_an_entry_point_must_give_an_objective_under_a_name_of_its_own(monkeypatch: pytest.MonkeyPatch):
    install(monkeypatch, "mine", "not_an_objective")
    with pytest.raises(SettingsError, match="'mine' returned a builtin_function_or_method, not a learner"):
        objectives.get(parse(name="mine"))
    install(monkeypatch, "spo", "Elsewhere")
    with pytest.raises(SettingsError, match=r"test_registry:Elsewhere takes the name of our objective 'spo'"):
        objectives.get(parse(name="spo"))


def terms(**optional: torch.Tensor) -> Responses:
    """Two responses, of two tokens and one, each of weight 1/2."""
    return Responses(torch.tensor([0, 0, 1]), torch.tensor([0.5, -0.5]), torch.tensor([0.5, 0.5]), **optional)


def test_kl_to_the_reference_by_hand():
    logp = torch.tensor([-1.0, -3.0, -2.0], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-1.5, -3.0, -1.0], dtype=torch.float64)
    bare = logp.detach().clone().requires_grad_()
    Reinforce()(bare, terms())[0].backward()
    loss, metrics = Regularised(Reinforce(), kl=0.1)(logp, terms(reference_logp=reference))
    loss.backward()
    assert logp.grad is not None
    assert bare.grad is not None
    # d = log ref - log pi = -0.5, 0, 1; exp(d) - d - 1 = 0.106531, 0, 0.718282; slope 1 - exp(d) = 0.393469, 0, -1.718282
    assert loss.item() == pytest.approx(0.1 * (0.5 * 0.106531 / 2 + 0.5 * 0.718282), rel=1e-5)
    expected = [0.1 * 0.25 * 0.393469, 0.0, -0.1 * 0.5 * 1.718282]
    assert (logp.grad - bare.grad).tolist() == pytest.approx(expected, rel=1e-5)
    assert metrics["kl_sum"].item() == pytest.approx(0.824813, rel=1e-5)
    assert metrics["kl_count"].item() == 3
    assert metrics["rho_sum"] / metrics["rho_count"] == pytest.approx(1.0)  # the objective's own


def test_kl_weighted_by_the_ratio_by_hand():
    """The term is r (exp(d) - d - 1), and its slope r (log pi - log ref), since r is differentiated too."""
    logp = torch.tensor([-1.0, -3.0, -2.0], dtype=torch.float64, requires_grad=True)
    behaviour = torch.tensor([-1.2, -3.0, -2.5], dtype=torch.float64)
    reference = torch.tensor([-1.5, -3.0, -1.0], dtype=torch.float64)
    bare = logp.detach().clone().requires_grad_()
    Tis()(bare, terms(behaviour_logp=behaviour))[0].backward()
    chosen = objectives.get(parse(name="tis", kl_coef=0.1, kl_estimator="k3_weighted"))
    loss, metrics = chosen(logp, terms(behaviour_logp=behaviour, reference_logp=reference))
    loss.backward()
    assert logp.grad is not None
    assert bare.grad is not None
    # r = e^0.2, 1, e^0.5 = 1.221403, 1, 1.648721; k3 = 0.106531, 0, 0.718282; log pi - log ref = 0.5, 0, -1
    expected = [0.1 * 0.25 * 1.221403 * 0.5, 0.0, -0.1 * 0.5 * 1.648721]
    assert (logp.grad - bare.grad).tolist() == pytest.approx(expected, rel=1e-5)
    assert metrics["kl_sum"].item() == pytest.approx(1.221403 * 0.106531 + 1.648721 * 0.718282, rel=1e-5)


@pytest.mark.parametrize(("estimator", "unbiased"), [("k3", False), ("k3_weighted", True)])
def test_only_the_weighted_kl_is_unbiased_for_tokens_of_an_older_policy(estimator: str, unbiased: bool):
    """Value and gradient in expectation over tokens from mu, against KL(pi || ref) of whole distributions."""
    logits = torch.tensor([0.3, -1.0, 0.7, 0.1], dtype=torch.float64, requires_grad=True)
    mu = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    reference = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64).log()
    exact = (logits.softmax(0) * (logits.log_softmax(0) - reference)).sum()
    chosen = objectives.get(parse(name="tis", kl_coef=1.0, kl_estimator=estimator))
    responses = Responses(
        torch.arange(4), torch.zeros(4), mu, mu.log(), reference
    )  # each token weighs what it is sampled
    estimate = chosen(logits.log_softmax(0), responses)[0]
    (slope,) = torch.autograd.grad(estimate, logits, retain_graph=True)
    (truth,) = torch.autograd.grad(exact, logits)
    assert torch.allclose(estimate, exact) is unbiased
    assert torch.allclose(slope, truth) is unbiased


@pytest.mark.parametrize("weighted", [False, True])
def test_kl_of_far_tokens_is_finite(weighted: bool):
    logp = torch.tensor([-100.0, -1e-7, -2.0], requires_grad=True)
    reference = torch.tensor([-1e-7, -100.0, -2.0])
    given = terms(reference_logp=reference, behaviour_logp=reference)
    loss, _ = Regularised(Reinforce(), kl=0.1, weighted=weighted)(logp, given)
    loss.backward()
    assert logp.grad is not None
    assert bool(logp.grad.isfinite().all())


def test_entropy_bonus_raises_the_entropy():
    logits = torch.tensor([[2.0, 0.0, -1.0]] * 3, dtype=torch.float64, requires_grad=True)
    logs = logits.log_softmax(1)
    entropy = -(logs.exp() * logs).sum(1)
    loss, _ = Regularised(Reinforce(), entropy=0.01)(logs[:, 0], terms(entropy=entropy))
    (full,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (bare,) = torch.autograd.grad(Reinforce()(logs[:, 0], terms())[0], logits, retain_graph=True)
    (slope,) = torch.autograd.grad(entropy[0] / 4 + entropy[1] / 4 + entropy[2] / 2, logits)
    torch.testing.assert_close(full - bare, -0.01 * slope)


def test_added_terms_ask_for_what_they_need_and_keep_groups_without_contrast():
    logp = torch.tensor([-1.0, -3.0, -2.0], requires_grad=True)
    chosen = objectives.get(parse(name="grpo", kl_coef=0.1))
    assert (chosen.needs_behaviour, chosen.needs_reference, chosen.weighting.keep) == (True, True, "all")
    assert chosen.weighting.advantage == "std"
    with pytest.raises(MissingInputError, match="needs behaviour_logp"):
        chosen(logp, terms(reference_logp=torch.zeros(3)))
    with pytest.raises(MissingInputError, match="needs reference_logp"):
        Regularised(Reinforce(), kl=0.1)(logp, terms())
    with pytest.raises(MissingInputError, match="needs the entropy"):
        Regularised(Reinforce(), entropy=0.1)(logp, terms())
    with pytest.raises(MissingInputError, match="entropy carries no gradient"):
        Regularised(Reinforce(), entropy=0.1)(logp, terms(entropy=torch.ones(3)))
