"""Batches of some of a batch's loss tokens: none is lost, none is predicted twice, no more than needed is forwarded."""

from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.batch.packing import Layout, pack
from learner.batch.subset import flatten, padded_to, select_tokens, with_field
from learner.batch.types import Batch, Sequence
from tests.tools import segmented


def sequence(first: int, versions: list[int], prompt: int = 1, temperature: float = 1.0) -> Sequence:
    """A sequence of tokens first, first + 1, ...: the prompt, then one for each of ``versions`` (-1: the environment's)."""
    version = torch.tensor([-1] * prompt + versions)
    tokens = torch.arange(first, first + len(version))
    return Sequence(tokens, version >= 0, 1.0, 1.0, temperature, version=version)


def test_a_version_by_hand():
    """Two spans in the first sequence, the second of another version only, the third of both."""
    sequences = [sequence(10, [4, 4, 5]), sequence(20, [5, 5]), sequence(30, [4, -1, 5], temperature=0.5)]
    batch = pack(sequences, Layout())
    versions = flatten(batch, "version")
    assert batch.members == [[0, 2, 1]]  # longest first
    assert versions.tolist() == [4, 4, 5, 4, 5, 5, 5]
    found = select_tokens(batch, versions == 4, Layout())
    assert found is not None
    (micro,) = found.batch.micro_batches
    # Causal: what follows the last token wanted is not forwarded, and sequences without one are not there.
    assert micro.tokens.tolist() == [[10, 11, 12, 30, 31]]
    assert micro.cu_seqlens.tolist() == [0, 3, 5]
    assert micro.loss_target.tolist() == [11, 12, 31]
    assert micro.temperature.tolist() == [1.0, 1.0, 0.5]
    assert [origin.tolist() for origin in found.origin] == [[0, 1, 3]]


def test_all_tokens_are_the_batch_itself_and_none_is_nothing():
    batch = pack([sequence(10, [4, 4]), sequence(20, [4])], Layout(min_micro_batches=2))
    whole = select_tokens(batch, torch.ones(3, dtype=torch.bool), Layout())
    assert whole is not None
    assert whole.batch is batch
    assert [origin.tolist() for origin in whole.origin] == [[0, 1], [2]]
    assert select_tokens(batch, torch.zeros(3, dtype=torch.bool), Layout()) is None


def test_a_subset_is_padded_to_the_number_of_micro_batches_that_all_ranks_run():
    layout = Layout(multiple=2)
    batch = pack([sequence(10, [4, 4]), sequence(20, [4])], layout)
    some = select_tokens(batch, torch.tensor([True, False, False]), layout)
    for before in (some, None):
        after = padded_to(before, 3, layout)
        own = 0 if before is None else 1
        assert len(after.batch.micro_batches) == len(after.batch.members) == len(after.origin) == 3
        assert after.batch.micro_batches[:own] == ([] if before is None else before.batch.micro_batches)
        for padding, origin in zip(after.batch.micro_batches[own:], after.origin[own:], strict=True):
            assert padding.tokens.shape == (1, 2)
            assert len(padding.loss_index) == len(origin) == 0
    assert padded_to(some, 1, layout).origin == some.origin  # type: ignore[union-attr]


def test_with_field_is_the_inverse_of_flatten():
    batch = pack([sequence(10, [4, 4]), sequence(20, [4])], Layout(min_micro_batches=2))
    filled = with_field(batch, "behaviour_logp", torch.tensor([-1.0, -2.0, -3.0]))
    assert flatten(filled, "behaviour_logp").tolist() == [-1.0, -2.0, -3.0]
    assert filled.micro_batches[1].behaviour_logp is not None
    assert filled.micro_batches[1].behaviour_logp.tolist() == [-3.0]
    assert batch.micro_batches[0].behaviour_logp is None


def targets(batch: Batch) -> torch.Tensor:
    return torch.cat([micro_batch.loss_target for micro_batch in batch.micro_batches])


@settings(deadline=None, max_examples=25)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=12),
    seed=st.integers(0, 10_000),
    count=st.integers(1, 3),
    budget=st.integers(14, 60),
)
def test_the_subsets_of_all_versions_are_the_whole(lengths: list[int], seed: int, count: int, budget: int):
    """Every loss token is in exactly one version's subset, after the same tokens as in the batch."""
    draw = torch.Generator().manual_seed(seed)
    sequences = [
        sequence(100 * (i + 1), torch.randint(0, 3, (length,), generator=draw).tolist())
        for i, length in enumerate(lengths)
    ]
    batch = pack(sequences, Layout(min_micro_batches=count, max_tokens=budget))
    versions, whole = flatten(batch, "version"), targets(batch)
    seen = torch.zeros(len(whole), dtype=torch.int64)
    for version in versions.unique().tolist():
        found = select_tokens(batch, versions == version, Layout(min_micro_batches=count, max_tokens=budget))
        assert found is not None
        assert len(found.batch.micro_batches) >= count
        origin = torch.cat(found.origin)
        assert torch.equal(targets(found.batch), whole[origin])
        assert (versions[origin] == version).all()
        seen[origin] += 1
        for micro_batch in found.batch.micro_batches:
            for index, target in zip(micro_batch.loss_index.tolist(), micro_batch.loss_target.tolist(), strict=True):
                position = int(micro_batch.positions[0, index])
                context = micro_batch.tokens[0, index - position : index + 1]
                assert context.tolist() == list(range(target - position - 1, target))
    assert (seen == 1).all()


def test_a_version_number_keeps_all_its_digits():
    """The number 2^24 + 1 cannot be represented as float32."""
    large = (1 << 24) + 1
    batch = pack([sequence(10, [large])], Layout(min_micro_batches=2))
    assert flatten(batch, "version").tolist() == [large]
    assert replace(batch).micro_batches[1].version is not None


@settings(deadline=None, max_examples=60)
@given(
    shapes=segmented.SHAPES,
    seed=st.integers(0, 10_000),
    some=st.sampled_from([0.1, 0.5, 0.9]),
    budget=st.integers(20, 120),
    context=st.sampled_from([1, 2]),
)
def test_chosen_tokens_of_segments_see_what_they_saw_in_the_batch(
    shapes: list[list[tuple[int, int]]], seed: int, some: float, budget: int, context: int
):
    sequences = segmented.responses(shapes, seed)
    layout = Layout(min_micro_batches=2, max_tokens=budget, context=context)
    batch = pack(sequences, layout)
    whole = segmented.read(batch)
    chosen = torch.rand(len(whole), generator=torch.Generator().manual_seed(seed)) < some
    found = select_tokens(batch, chosen, layout)
    if found is None:
        assert not chosen.any()
        return
    assert sum(len(origin) for origin in found.origin) == int(chosen.sum())
    assert chosen[torch.cat(found.origin)].all()
    seen = [(token.context, token.target, token.temperature) for token in segmented.read(found.batch)]
    before = [whole[index] for index in torch.cat(found.origin).tolist()]
    assert seen == [(token.context, token.target, token.temperature) for token in before]
    if (
        not chosen.all()
    ):  # of each segment with a chosen token, the part up to the last of them; a segment by its first token
        ends: dict[int, int] = {}
        for token in before:
            ends[token.context[0]] = max(ends.get(token.context[0], 0), len(token.context) + 1)
        assert found.batch.tokens == sum(ends.values())
