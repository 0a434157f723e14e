"""The interface of objectives: log-probabilities of sampled tokens in, a loss and additive metrics out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from learner.batch.types import MicroBatch
from learner.batch.weighting import Weighting
from learner.objectives.effective_sample import effective_sample_sums

Loss = tuple[Tensor, dict[str, Tensor]]


class MissingInputError(ValueError):
    """An objective was called without an input that it needs; the message names the input and where it comes from."""


@dataclass(frozen=True)
class Responses:
    """The responses of a micro-batch: R responses with L loss tokens in all.

    A response is never split over micro-batches, so every per-response sum is complete, over all its segments.
    """

    row: Tensor  # [L] int64: response of each loss token
    advantage: Tensor  # [R] float32
    weight: Tensor  # [R] float32: factor of the response's term in the loss (learner.batch.weighting)
    behaviour_logp: Tensor | None = None  # [L] float32: log mu, of the policy that generated the token; None: unknown
    reference_logp: Tensor | None = None  # [L] float32: log-probability under the frozen reference; None: unknown
    entropy: Tensor | None = None  # [L] float32, nats, of the current policy's whole distribution at the token

    @classmethod
    def of(cls, batch: MicroBatch, entropy: Tensor | None = None) -> Responses:
        """Takes the responses of a packed micro-batch; ``entropy``: [L] float32, if the objective needs it."""
        return cls(batch.loss_row, batch.advantage, batch.weight, batch.behaviour_logp, batch.reference_logp, entropy)

    @classmethod
    def probe(cls) -> tuple[Tensor, Responses]:
        """Returns log p [1] and a response of one token with every field set, to find out the metrics of an objective."""
        logp, one = -torch.ones(1), torch.ones(1)
        return logp, cls(torch.zeros(1, dtype=torch.int64), one, one, logp, logp, one)

    def total(self, values: Tensor) -> Tensor:
        """Sums per-token ``values`` [L] by response: [R]."""
        return torch.zeros_like(self.weight, dtype=values.dtype).index_add(0, self.row, values)

    def lengths(self) -> Tensor:
        """Counts the loss tokens of each response: [R] float32."""
        return self.total(torch.ones_like(self.row, dtype=torch.float32))

    def mean(self, values: Tensor) -> Tensor:
        """Averages per-token ``values`` [L] by response: [R]; 0 for a response without loss tokens."""
        return self.total(values) / self.lengths().clamp(min=1)

    def scale(self, logp: Tensor) -> Tensor:
        """Computes S_g, the mean token negative log-probability of each response: [R], nats/token."""
        return self.mean(-logp)


class Objective(ABC):
    """A function of one micro-batch, possibly with state that moves between steps.

    ``loss`` is a plain sum over the micro-batch's responses, each already weighted (``Responses.weight``), so that the sum
    over micro-batches and data-parallel ranks is the loss of the step, however the batch was cut. Nothing may be divided by
    a number of the micro-batch as a whole. Metrics are sums as well, named ``<thing>_sum`` and ``<thing>_count``, with the
    same names at every call.

    Every objective reports, besides its own metrics:
        nll_positive_*, nll_negative_*: S of the responses with A > 0, A < 0 (nats/token; responses).
        naive_gap_sum: (B/G)(S_P - S_N), averaged over prompts: the distance from 0 of the forward loss of REINFORCE on
        centred
            rewards. B is the sum of a group's positive advantages, S_P and S_N the mean scales of positives and negatives.
        rho_sum / rho_count: the effective **rho**, the total weight of the tokens whose probability the step lowers over
            that of the tokens it raises. A token's weight is |d loss / d log p|; with S_g alone in the loss the weights of
            response g add up to |d loss / d S_g|. So rho is alpha for SPO, 1 for REINFORCE on centred rewards, 0 for
            positives only, and for ASymPO the sum of |A| / S over negatives by that over positives. It is measured from the
            gradient, not declared.
        drift_sum / drift_count: log(pi/mu) over tokens, if the objective needs mu (nats; tokens).
        ess_weight, ess_square, ess_count: importance weights of whole responses, if the objective needs mu: their sum, that
            of their squares, and how many (learner.objectives.effective_sample).

    State: the caller gives ``observe`` the sums of the step, reduced over all ranks, after every update. As all ranks see
    the same numbers, their states stay equal without a collective.

    Attributes:
        weighting: rules for the advantages and weights that this objective is given (learner.batch.weighting).
        needs_behaviour: whether it needs ``Responses.behaviour_logp``.
        needs_reference: whether it needs ``Responses.reference_logp``.
        needs_entropy: whether it needs ``Responses.entropy``.
        needs_survey: whether ``survey`` must be called before the losses of a step.
    """

    weighting = Weighting()
    needs_behaviour = False
    needs_reference = False
    needs_entropy = False
    needs_survey = False

    @abstractmethod
    def loss(self, logp: Tensor, responses: Responses) -> Loss:
        """Computes the loss by the objective's formula, and metrics of its own.

        Args:
            logp: [L] float, log-probability of each sampled token under the current policy.
            responses: the responses that the tokens belong to.
        """

    def __call__(self, logp: Tensor, responses: Responses) -> Loss:
        """Returns the loss, differentiable in ``logp`` [L], and detached metrics.

        Raises:
            MissingInputError: behaviour or reference log-probabilities, or entropies, are needed and missing.
        """
        self._check(logp, responses)
        leaf = logp.detach().requires_grad_()
        with torch.enable_grad():  # also in an evaluation: rho is read off the gradient
            loss, metrics = self.loss(leaf, responses)
            (gradient,) = torch.autograd.grad(loss, leaf)
        metrics = {**self._scales(leaf.detach(), responses), **_rho(gradient), **metrics}
        if self.needs_behaviour and responses.behaviour_logp is not None:
            log_ratio = leaf.detach() - responses.behaviour_logp
            metrics["drift_sum"] = log_ratio.sum()
            metrics["drift_count"] = gradient.new_full((), len(gradient))
            metrics |= effective_sample_sums(responses.total(log_ratio.double()), responses.lengths())
        value: Tensor = _WithGradient.apply(logp, loss.detach(), gradient)  # type: ignore[assignment]
        return value, {name: metric.detach() for name, metric in metrics.items()}

    def reduce(self, losses: Tensor, responses: Responses) -> Tensor:
        """Sums per-token ``losses`` [L], each with the weight that ``weighting`` gives its token."""
        per_response = responses.mean(losses) if self.weighting.mean == "response" else responses.total(losses)
        return (responses.weight * per_response).sum()

    def survey(self, log_ratio: Tensor, advantage: Tensor) -> None:  # noqa: B027
        """Learns what the losses of a step need of all its tokens; called once a step, before them, if ``needs_survey``.

        Every rank passes the same tokens, and so ends with the same state.

        Args:
            log_ratio: [n] float on the CPU, log(pi / mu) of the step's loss tokens, of all micro-batches and data ranks.
            advantage: [n] float, the advantage of each token's response.
        """

    def observe(self, sums: dict[str, float]) -> None:  # noqa: B027 (state is optional)
        """Records a step that was made; ``sums``: its metrics, summed over all micro-batches and ranks."""

    def state_dict(self) -> dict[str, Any]:
        """Returns the state for a checkpoint: JSON values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Restores what ``state_dict`` returned; an empty state is that of a new objective."""

    def _check(self, logp: Tensor, responses: Responses) -> None:
        name = type(self).__name__
        behaviour = responses.behaviour_logp
        if self.needs_behaviour and behaviour is None:
            raise MissingInputError(
                f"{name} needs behaviour_logp: log mu of each loss token under the version that generated it. Recompute "
                "it with that version's weights, or use a behaviour-free objective (asympo, spo, positives)"
            )
        if behaviour is not None and behaviour.requires_grad:
            raise MissingInputError(
                f"{name}: behaviour_logp carries a gradient: those are the current log-probabilities"
            )
        if self.needs_reference and responses.reference_logp is None:
            raise MissingInputError(
                f"{name} needs reference_logp: log-probabilities under the frozen reference (kl_coef)"
            )
        if self.needs_entropy and responses.entropy is None:
            raise MissingInputError(f"{name} needs the entropy of each loss token (entropy_coef)")
        if (
            self.needs_entropy
            and logp.requires_grad
            and not (responses.entropy is None or responses.entropy.requires_grad)
        ):
            raise MissingInputError(
                f"{name}: the entropy carries no gradient: the bonus (entropy_coef) would do nothing"
            )

    def _scales(self, logp: Tensor, responses: Responses) -> dict[str, Tensor]:
        """Computes the metrics in which a collapse shows first: the scales of positives and negatives, without any clip."""
        scale = responses.scale(logp)
        positive = responses.advantage > 0
        negative = responses.advantage < 0
        per_token = self.weighting.mean in ("group", "batch")
        weight = responses.weight * responses.lengths() if per_token else responses.weight
        return {
            "nll_positive_sum": scale.where(positive, 0.0).sum(),
            "nll_positive_count": positive.float().sum(),
            "nll_negative_sum": scale.where(negative, 0.0).sum(),
            "nll_negative_count": negative.float().sum(),
            "naive_gap_sum": (weight * responses.advantage * scale).sum(),
        }


class _WithGradient(torch.autograd.Function):
    """Autograd function of a value whose gradient is already known."""

    @staticmethod
    def forward(ctx: Any, logp: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return outer[0] * gradient, None, None


def _rho(gradient: Tensor) -> dict[str, Tensor]:
    return {"rho_sum": gradient.clamp(min=0).sum(), "rho_count": (-gradient).clamp(min=0).sum()}
