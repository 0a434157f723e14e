"""One model from the learner over a publication into the engine, and what each of them computes of it."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import torch

from learner.cli.doctor import model as doctor
from learner.cli.preflight.examined_config import ExaminedConfig
from learner.config import LearnerConfig
from runtime.version_format.names import version_name
from tests.families.compare import greedy, largest_difference
from tests.families.engine import NotRunError, generate
from tests.families.learner import STEPS, train
from tests.families.models import Family, load, write_model
from tests.families.proof import PROMPTS, Proof
from tests.tools.doctor_site import bad


def prove(family: Family, out: Path, port: int) -> Proof:
    """Runs everything for one model, in this process and one server.

    Args:
        family: the model.
        out: an empty directory.
        port: that the server listens on.
    """
    directory, vocabulary = out / "model", family.config.vocab_size
    write_model(directory, family, seed=5)
    warnings = tuple(text.replace(f"{directory}/", "") for text in bad(doctor.model(_examined(directory))))
    trained = train(directory, vocabulary, out)
    gc.unfreeze()  # the next model's start freezes what is left of this one otherwise
    gc.collect()
    prompts = _prompts(vocabulary)
    before, after = (load(out / "weights" / version_name(number), family) for number in (0, STEPS))
    logits = largest_difference(after, trained.sequences, trained.logits)
    policies = [trained.policies[0], trained.policies[STEPS]]
    try:
        first, last = asyncio.run(generate(directory, policies, prompts, vocabulary, port))
    except NotRunError as error:
        return Proof(logits, (), None, warnings, str(error))
    tokens = greedy(before, prompts, first), greedy(after, prompts, last)
    return Proof(logits, tokens, greedy(after, prompts, first), warnings, "")


def _examined(directory: Path) -> ExaminedConfig:
    values = {
        "model": str(directory), "queue": {"url": "redis://unused", "run": "families"}, "steps": 1, "metrics_dir": "unused",
        "checkpoint": {"dir": "unused"}, "publish": {"dir": "unused"},
    }  # fmt: skip
    return ExaminedConfig("learner", learner=LearnerConfig.parse(values, source="families"))


def _prompts(vocabulary: int) -> list[list[int]]:
    draw = torch.Generator().manual_seed(11)
    return [torch.randint(vocabulary, (length,), generator=draw).tolist() for length in PROMPTS]
