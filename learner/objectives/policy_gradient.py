"""Objectives with constant weights: the advantage times a number, on log p under the *current* policy.

None of them needs the probabilities of the policy that generated the responses, and none has state. S_g is the mean token
negative log-probability of response g (nats/token), A_g its advantage.
"""

from __future__ import annotations

import torch
from torch import Tensor

from learner.batch.weighting import Weighting
from learner.objectives.base import Loss, Objective, Responses


class Spo(Objective):
    """Scaled Policy Optimization (arXiv 2606.03070v3). *Simple* Policy Optimization is another method.

        L = (1/G) sum_g A_g C_g S_g,    C_g = 1 where A_g >= 0, alpha where A_g < 0

    The loss of the step is the mean over prompts. Normalised by 1/m within a response and 1/G within a group; ``mean``
    chooses another mean over tokens. Needs no other log-probabilities. rho = alpha, which is 0.2 in all the paper's runs.
    """

    def __init__(self, alpha: float) -> None:
        self._alpha = alpha

    def loss(self, logp: Tensor, responses: Responses) -> Loss:
        advantage = torch.where(responses.advantage >= 0, responses.advantage, self._alpha * responses.advantage)
        return -self.reduce(advantage[responses.row] * logp, responses), {}


class Reinforce(Spo):
    """REINFORCE on centred rewards, L = (1/G) sum_g A_g S_g, which the ASymPO paper calls naive.

    Normalised as SPO. Needs no other log-probabilities. rho = 1, because positive and negative mean-centred advantages
    cancel.
    """

    def __init__(self) -> None:
        super().__init__(alpha=1.0)


class Positives(Spo):
    """Trains on responses above their group's mean only, L = (1/G) sum_{A_g > 0} A_g S_g: SPO at alpha = 0. rho = 0."""

    def __init__(self) -> None:
        super().__init__(alpha=0.0)


class Opmd(Objective):
    """Online policy mirror descent in its simple form.

        L = -(1/sum m) sum_g sum_i A_g log p_{g,i} / (1 + tau)

    From Trinity-RFT (arXiv 2505.17826), whose code for ``opmd`` averages over the batch's tokens. tau = 0 is REINFORCE with a
    token mean. Derived here: under Adam, tau does little more than scale the gradient norm that clipping compares. Needs no
    other log-probabilities.
    """

    weighting = Weighting(mean="batch")

    def __init__(self, tau: float) -> None:
        self._factor = 1.0 / (1.0 + tau)

    def loss(self, logp: Tensor, responses: Responses) -> Loss:
        return -self._factor * self.reduce(responses.advantage[responses.row] * logp, responses), {}


class Asymre(Objective):
    """Asymmetric REINFORCE, with a baseline V below the mean reward (arXiv 2506.20520).

        L = -(1/G) sum_g (r_g - V) log p(y_g),    V = mean(r) - shift,    log p(y) = sum_i log p_i

    With the mean-centred advantage, r - V = A + shift. Normalised by 1/G, not by length, since log p(y) is the response's.
    Needs no other log-probabilities. Responses at the mean of a mixed group are trained on (A = 0, r - V = shift). Our
    choice: groups without contrast are left out; by the formula they would be pushed up by shift, whether all right or all
    wrong.
    """

    weighting = Weighting(mean="sum", keep="informative")

    def __init__(self, shift: float) -> None:
        self._shift = shift

    def loss(self, logp: Tensor, responses: Responses) -> Loss:
        return -self.reduce((responses.advantage + self._shift)[responses.row] * logp, responses), {}
