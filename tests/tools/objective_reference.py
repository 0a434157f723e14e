"""An independent implementation of every objective: loops over Python numbers that share nothing with the code under test.

The formulas are those of docs/objectives.md. Log-probabilities may be complex, so that a derivative is the imaginary part of
a step along i: exact to rounding, where a difference of two real losses would drown the small terms in the large ones.

``base`` are the log-probabilities at which stop-gradient terms are evaluated: they stay constant while ``x`` moves.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from dataclasses import dataclass

Numbers = list[complex]


@dataclass
class Response:
    reward: float
    logp: list[float]
    mu: list[float]  # log-probability under the behaviour policy


Group = list[Response]
STD = ("grpo", "grpo_free", "dapo", "cispo", "cispo_response", "gspo", "m2po", "m2po_group", "m2po_batch")
STD_UNBIASED = ("grpo_verl", "grpo_group")
STEP_MEAN = ("opmd", "dapo", "grpo_verl", "dppo", "dppo_kl", "dppo_prime", "drpo", "spo_batch", "tis_batch")
GROUP_MEAN = ("cispo", "grpo_group", "m2po_group", "dppo_group", "drpo_group")
STEP = 1e-30


def gradient(name: str, groups: list[Group]) -> list[float]:
    """Computes d loss / d logp of every token, in order, by complex steps."""
    base = [list(response.logp) for group in groups for response in group]
    slopes = []
    for r, values in enumerate(base):
        for i in range(len(values)):
            moved = [list(map(complex, v)) for v in base]
            moved[r][i] += 1j * STEP
            slopes.append(loss(name, groups, moved).imag / STEP)
    return slopes


def central_difference(name: str, groups: list[Group], h: float = 1e-5) -> list[float]:
    """Computes d loss / d logp of every token, in order, by central differences of step ``h``."""
    base = [list(map(complex, response.logp)) for group in groups for response in group]
    slopes = []
    for r, values in enumerate(base):
        for i in range(len(values)):
            ends = []
            for sign in (1, -1):
                moved = [list(v) for v in base]
                moved[r][i] += sign * h
                ends.append(loss(name, groups, moved).real)
            slopes.append((ends[0] - ends[1]) / (2 * h))
    return slopes


def loss(name: str, groups: list[Group], x: list[Numbers]) -> complex:
    """Computes the step's loss at log-probabilities ``x`` (a list for each response), with our default constants."""
    position, total = 0, 0j
    step_tokens = sum(len(response.logp) for group in groups for response in group)
    for group in groups:
        rewards = [response.reward for response in group]
        mean = math.fsum(rewards) / len(rewards)
        squares = math.fsum((r - mean) ** 2 for r in rewards)
        divisor = 1.0
        if name in STD:
            divisor = math.sqrt(squares / len(rewards)) + 1e-6
        if name in STD_UNBIASED:
            divisor = math.sqrt(squares / (len(rewards) - 1)) + 1e-6
        group_tokens = sum(len(response.logp) for response in group)
        for response in group:
            a = (response.reward - mean) / divisor
            if max(rewards) != min(rewards):
                share = 1 / (len(group) * len(groups))
                if name in STEP_MEAN:
                    share = 1 / step_tokens
                if name in GROUP_MEAN:
                    share = 1 / (group_tokens * len(groups))
                if name == "m2po_batch":
                    total += share * _m2po_batch(a, x[position], response, groups)
                elif not (name == "dppo_prime" and response.reward == mean):  # A = 0: not trained, so no KL either
                    total += share * TERMS[name](a, x[position], response.logp, response.mu)
            position += 1
    return total


def _mean(values: Numbers) -> complex:
    return sum(values) / len(values)


def _ratio(x: complex, mu: float) -> complex:
    d = complex(x) - mu
    return cmath.exp(20 if d.real > 20 else -20 if d.real < -20 else d)


def _clip(value: complex, low: float, high: float) -> complex:
    return complex(low if value.real < low else high if value.real > high else value)


def _pessimistic(ratio: complex, a: float, low: float, high: float) -> complex:
    free, bounded = ratio * a, _clip(ratio, 1 - low, 1 + high) * a
    return free if free.real <= bounded.real else bounded


def _scaled(alpha: float) -> Callable[..., complex]:
    return lambda a, x, base, mu: a * (1 if a >= 0 else alpha) * -_mean(x)


def _asympo(factor: float, low: float = -math.inf, high: float = math.inf) -> Callable[..., complex]:
    def term(a: float, x: Numbers, base: list[float], mu: list[float]) -> complex:
        def bound(v: complex) -> complex:
            v = complex(v)
            if a >= 0:
                return v if v.real <= high else complex(high)
            return v if v.real >= low else complex(low)

        scale = -_mean([bound(v) for v in x])
        constant = max(-_mean([bound(v) for v in base]).real, 1e-3)
        return a * (1 if a >= 0 else factor) * scale / constant

    return term


def _grpo(low: float = 0.2, high: float = 0.2, dual: float = 3.0) -> Callable[..., complex]:
    """Minus the sum over a response's tokens."""

    def term(a: float, x: Numbers, base: list[float], mu: list[float]) -> complex:
        total = 0j
        for v, m in zip(x, mu, strict=True):
            surrogate = _pessimistic(_ratio(v, m), a, low, high)
            if a < 0 and surrogate.real < dual * a:
                surrogate = complex(dual * a)
            total -= surrogate
        return total

    return term


def _averaged(sums: Callable[..., complex]) -> Callable[..., complex]:
    """The mean over a response's tokens of a term that is a sum over them."""
    return lambda a, x, base, mu: sums(a, x, base, mu) / len(x)


def _gspo(a: float, x: Numbers, base: list[float], mu: list[float]) -> complex:
    logs = [_clip(complex(v) - m, -20, 20) for v, m in zip(x, mu, strict=True)]
    return -_pessimistic(cmath.exp(_mean(logs)), a, 3e-4, 4e-4)


def _tis(a: float, x: Numbers, base: list[float], mu: list[float]) -> complex:
    return -_mean([min(_ratio(b, m).real, 2.0) * a * v for v, b, m in zip(x, base, mu, strict=True)])


def _cispo(a: float, x: Numbers, base: list[float], mu: list[float]) -> complex:
    return -sum(min(_ratio(b, m).real, 5.0) * a * v for v, b, m in zip(x, base, mu, strict=True))


def _topr(a: float, x: Numbers, base: list[float], mu: list[float]) -> complex:
    logs = [_clip(complex(b) - m, -20, 20).real for b, m in zip(base, mu, strict=True)]
    return -(1.0 if a >= 0 else min(1.0, math.exp(min(0.0, sum(logs))))) * a * sum(x)


def _dppo(low: float = 0.15, high: float = 0.15, coefficient: float = 0.0) -> Callable[..., complex]:
    def term(a: float, x: Numbers, base: list[float], mu: list[float]) -> complex:
        total = 0j
        for v, b, m in zip(x, base, mu, strict=True):
            moved = math.exp(b) - math.exp(m)
            if moved <= high if a > 0 else moved >= -low:
                total -= a * min(_ratio(b, m).real, 20.0) * v
            total += coefficient * _clip(complex(v) - m, -20, 20) ** 2
        return total

    return term


def _dppo_kl(low: float, high: float) -> Callable[..., complex]:
    def term(a: float, x: Numbers, base: list[float], mu: list[float]) -> complex:
        total = 0j
        for v, b, m in zip(x, base, mu, strict=True):
            p, q = math.exp(m), math.exp(b)
            kl = p * (m - b) + max(1 - p, 1e-12) * (math.log(max(1 - p, 1e-12)) - math.log(max(1 - q, 1e-12)))
            if kl <= (high if a > 0 else low) or (q <= p if a > 0 else q >= p):
                total -= a * min(_ratio(b, m).real, 20.0) * v
        return total

    return term


def _drpo(a: float, x: Numbers, base: list[float], mu: list[float]) -> complex:
    ratios = [_ratio(v, m) for v, m in zip(x, mu, strict=True)]
    return -sum(r * a - abs(a) / 25 * math.exp(m) * (r - 1) ** 2 for r, m in zip(ratios, mu, strict=True))


def _m2po(a: float, x: Numbers, base: list[float], mu: list[float]) -> complex:
    squares = [_clip(complex(b) - m, -20, 20).real ** 2 for b, m in zip(base, mu, strict=True)]
    kept = sorted(range(len(x)), key=lambda i: squares[i])
    while kept and sum(squares[i] for i in kept) / len(kept) > 0.04:
        kept.pop()
    return -sum(_ratio(x[i], mu[i]) * a for i in kept) / len(x)


def _m2po_batch(a: float, x: Numbers, response: Response, groups: list[Group]) -> complex:
    """Algorithm 1 of the paper, over the whole step: the largest is masked until the mean of the others fits."""
    outward = []
    for group in groups:
        mean = math.fsum(one.reward for one in group) / len(group)
        for one in group:
            for b, m in zip(one.logp, one.mu, strict=True):
                log_r = _clip(complex(b) - m, -20, 20).real
                moved = abs(log_r) > 1e-4
                if moved and (one.reward - mean) * log_r > 0 and len({other.reward for other in group}) > 1:
                    outward.append(log_r**2)
    kept = sorted(outward)
    while kept and math.fsum(kept) / len(kept) > 0.04:
        kept.pop()
    total = 0j
    for v, b, m in zip(x, response.logp, response.mu, strict=True):
        log_r = _clip(complex(b) - m, -20, 20).real
        if a * log_r <= 0 or (kept and log_r**2 <= kept[-1]):
            total -= _ratio(v, m) * a
    return total / len(x)


TERMS: dict[str, Callable[..., complex]] = {
    "reinforce": _scaled(1.0),
    "spo": _scaled(0.2),
    "positives": _scaled(0.0),
    "opmd": lambda a, x, base, mu: -a * sum(x) / 2,
    "asymre": lambda a, x, base, mu: -(a + 0.1) * sum(x),
    "asympo": _asympo(1.0),
    "asympo_guard": _asympo(0.1),
    "asympo_clip": _asympo(1.0, math.log(0.02), math.log(0.98)),
    "spo_batch": lambda a, x, base, mu: a * (1 if a >= 0 else 0.2) * -sum(x),
    "grpo": _averaged(_grpo()),
    "grpo_free": _averaged(_grpo(dual=math.inf)),
    "grpo_verl": _grpo(),
    "grpo_group": _grpo(),
    "dapo": _grpo(high=0.28),
    "dr_grpo": lambda a, x, base, mu: _grpo()(a, x, base, mu) / 1024,
    "tis": _tis,
    "tis_batch": lambda a, x, base, mu: _tis(a, x, base, mu) * len(x),
    "cispo": _cispo,
    "cispo_response": _averaged(_cispo),
    "gspo": _gspo,
    "topr": _topr,
    "dppo": _dppo(),
    "dppo_group": _dppo(),
    "dppo_prime": _dppo(low=0.1, high=0.2, coefficient=0.05),
    "dppo_kl": _dppo_kl(low=0.02, high=0.08),
    "drpo": _drpo,
    "drpo_group": _drpo,
    "m2po": _m2po,
    "m2po_group": lambda a, x, base, mu: _m2po(a, x, base, mu) * len(x),
    "m2po_batch": _m2po,  # not called: ``loss`` takes _m2po_batch, which needs the whole step
}
