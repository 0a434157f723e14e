"""Exports the policy's weights as Hugging Face tensors, shared out over the ranks of each pipeline stage.

A rank copies its part of the weights to host memory, in the order in which the model has them; that is all that training
waits for. Everything else is done later, from the copy, by whichever thread wants the tensors: slices of tensor-parallel
ranks are brought together and cut into the tensors that Hugging Face names. From a GPU the copy is made on a stream of its
own; only stand-ins for a GPU have tried that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import chain, zip_longest
from typing import Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

from learner.megatron.model.adapter_export import AdapterAssembly, Assembly, MergedAssembly
from learner.megatron.model.convert import ParameterMapping, parameter_mappings, split
from learner.megatron.model.lora import matrices
from learner.megatron.model.packed_model import PackedModel, Policy
from learner.megatron.model.weight_copies import WeightCopies, WeightCopy
from learner.megatron.parallel import Ranks

_TRANSFER_BYTES = 1 << 26  # unsharded tensors that one exchange brings together on a rank: a small model's fit in one

_EXCHANGE_S = 1800.0  # limit of one exchange; the watchdog ends a rank that hangs long before

_Transfer = list[ParameterMapping]  # tensors that a rank gets in one exchange
_Copies = Mapping[Parameter, Tensor]

Field = Literal["data", "main_grad"]  # of a parameter: its value, or the gradient of the last step
Averages = Callable[[torch.dtype], Mapping[Parameter, Tensor]]  # of whole parameters; collective among data ranks


class Exporter:
    """Exports this rank's share of its stage's tensors, unsharded and under their Hugging Face names.

    The tensor-, context- and data-parallel ranks of a stage share its tensors out by size, and experts among the ranks that
    hold them. A tied output layer is exported once, by the first stage. Where adapters are trained, they alone are copied and
    added to the weights when the tensors are wanted; or they are exported themselves, by rank 0. Making one is collective.

    Args:
        policy: this rank's shard of the model.
        ranks: this process's indices and groups.
        dtype: data type of what is exported, "float32" or "bfloat16"; None for each parameter's own.
        averages: what is exported in place of the parameters' values, where weights are averaged.
        form: "merged": the model's tensors; "adapter": the matrices of its adapters, under the names that peft has for them.
    """

    def __init__(
        self,
        policy: Policy,
        ranks: Ranks,
        dtype: str | None = None,
        averages: Averages | None = None,
        form: Literal["merged", "adapter"] = "merged",
    ) -> None:
        self._policy = policy
        self._averages = averages
        self._assembly, copied = _assembly(policy, ranks, dtype, form)
        self._dtype: torch.dtype = copied or policy.dtype
        trained = [parameter for model in policy.models for parameter in model.parameters()]
        self._all = list(self._assembly.parameters) if policy.lora is not None else trained
        self._copies = WeightCopies(ranks.device, copied)

    @property
    def copied(self) -> int:
        """Bytes of host memory that this rank's copies are kept in; 0 before the first."""
        return self._copies.nbytes

    def begin(self, whole: bool = False, field: Field = "data") -> Export:
        """Copies what this rank exports, or begins to. Collective among data-parallel ranks.

        Args:
            whole: whether to copy all of this rank's parameters, for another user of the copy; of adapters all are copied
                in any case.
            field: what to export of each parameter: its value, or the gradient of the last step, of those that have one. The
                gradient has meaning only without data parallelism; with it, the reduction has scattered the gradient over the
                ranks.

        Raises:
            PinError: CUDA pins no more memory.
        """
        parameters = self._all if whole else self._assembly.parameters
        if field == "main_grad":
            parameters = [parameter for parameter in parameters if parameter.requires_grad]
        if self._averages is not None and field == "data":
            averages = self._averages(self._dtype)
            tensors = [averages.get(parameter, parameter.detach()) for parameter in parameters]
        else:
            self._policy.gather()
            tensors = [getattr(parameter, field).detach() for parameter in parameters]
        return Export(self._copies.take(parameters, tensors), self._assembly)

    def protect(self) -> None:
        """Lets what this thread puts on the GPU from now on, such as new weights, wait until the old are copied."""
        self._copies.protect()


class Export:
    """The weights of one moment. The methods may be called by another thread than the one that began it.

    Attributes:
        weights: the copy, with one user: this export.
    """

    def __init__(self, weights: WeightCopy, assembly: Assembly) -> None:
        self.weights = weights
        self._assembly = assembly

    def shard(self) -> list[tuple[str, Tensor]]:
        """Returns (name, unsharded tensor) pairs in host memory, valid until ``release``; those of all ranks are the model.

        Collective among tensor-parallel ranks, which export in the same order; among all, if adapters themselves are
        exported. Besides the copy a rank needs memory for what
        is not a part of it as it is: tensors that ranks have slices of, and queries, keys and values. For a while it needs
        three times the larger of 64 MiB and its largest tensor.
        """
        return self._assembly.tensors(self.weights.by_parameter())

    def release(self) -> None:
        """Lets the memory be used again, once the copy has no other user."""
        self.weights.release()


def _assembly(
    policy: Policy, ranks: Ranks, dtype: str | None, form: Literal["merged", "adapter"]
) -> tuple[Assembly, torch.dtype | None]:
    """What makes the tensors that are exported, and the data type in which parameters are copied for it. Collective."""
    group = _group_of_threads(ranks) if ranks.tensor_size > 1 else None
    copied: torch.dtype | None = getattr(torch, dtype) if dtype else None
    if policy.lora is None:
        return _Assembly(policy, ranks, group), copied
    adapters = AdapterAssembly(matrices(policy.models), ranks, group, _group_of_leaders(ranks))
    if form == "adapter":
        return adapters, copied
    exported = dtype or str(policy.dtype).removeprefix("torch.")
    base = _Assembly(policy, ranks, group)
    return MergedAssembly(base, adapters, policy.lora.scaling, exported), torch.float32


class _Assembly:
    """Makes Hugging Face tensors of copies of parameters.

    Attributes:
        parameters: those that it needs of this rank.
    """

    def __init__(self, policy: Policy, ranks: Ranks, group: dist.ProcessGroup | None) -> None:
        mappings = [
            mapping
            for model in policy.models
            for mapping in parameter_mappings(model, policy.architecture, ranks)
            if not _is_repeated(mapping, model)
        ]
        shares, experts = _shares(mappings, ranks)
        self._architecture = policy.architecture
        self._ranks = ranks
        self._whole = [mapping for mapping in shares[ranks.tensor_rank] if not _is_cut(mapping, ranks)] + experts
        cut = [[mapping for mapping in share if _is_cut(mapping, ranks)] for share in shares]
        # An exchange needs what each rank gets of the others in it, in the order of the ranks.
        self._exchanges = list(zip_longest(*(_transfers(share, ranks) for share in cut), fillvalue=_Transfer()))
        self._group = group
        self.parameters = [mapping.parameter for mapping in chain(*cut, self._whole)]

    def tensors(self, copies: _Copies) -> list[tuple[str, Tensor]]:
        """(name, unsharded tensor) pairs that this rank exports. Collective among tensor-parallel ranks."""
        found: list[tuple[str, Tensor]] = []
        for exchange in self._exchanges:
            mine = exchange[self._ranks.tensor_rank]
            for mapping, full in zip(mine, self._exchange(exchange, copies), strict=True):
                found += self._named(mapping, full)
        for mapping in (mapping for mapping in self._whole if mapping.parameter in copies):
            found += self._named(mapping, copies[mapping.parameter])
        return found

    def _named(self, mapping: ParameterMapping, full: Tensor) -> Iterator[tuple[str, Tensor]]:
        tensors = split(mapping.kind, full, self._architecture, mapping.slices(self._ranks))
        return zip(mapping.names, tensors, strict=True)

    def _exchange(self, exchange: Sequence[_Transfer], copies: _Copies) -> list[Tensor]:
        """Sends every tensor-parallel rank this rank's slices of what it gets; returns what this one gets, unsharded."""
        sent = [[copies[mapping.parameter] for mapping in transfer] for transfer in exchange]
        sizes = [sum(tensor.nbytes for tensor in tensors) for tensors in sent]
        mine, size = sent[self._ranks.tensor_rank], sizes[self._ranks.tensor_rank]
        received = torch.empty(self._ranks.tensor_size * size, dtype=torch.uint8)
        flat = torch.cat([tensor.flatten().view(torch.uint8) for tensor in chain(*sent)])
        dist.all_to_all_single(received, flat, [size] * self._ranks.tensor_size, sizes, group=self._group)
        slices = [part.split([tensor.nbytes for tensor in mine]) for part in received.split(size)] if size else []
        full: list[Tensor] = []
        for mapping, tensor, parts in zip(
            exchange[self._ranks.tensor_rank], mine, zip(*slices, strict=True), strict=True
        ):
            assert mapping.dim is not None
            full.append(torch.cat([part.view(tensor.dtype).view_as(tensor) for part in parts], mapping.dim))
        return full


def _group_of_threads(ranks: Ranks) -> dist.ProcessGroup:
    """A gloo group of this rank's tensor-parallel ranks, beside the one that training uses. Collective over all ranks."""
    groups = [list(range(first, first + ranks.tensor_size)) for first in range(0, ranks.world, ranks.tensor_size)]
    own, _ = dist.new_subgroups_by_enumeration(groups, timeout=timedelta(seconds=_EXCHANGE_S), backend="gloo")
    return cast(dist.ProcessGroup, own)


def _group_of_leaders(ranks: Ranks) -> dist.ProcessGroup | None:
    """A gloo group of the first rank of every pipeline stage; None if there is one stage. Collective over all ranks."""
    if ranks.pipeline_size == 1:
        return None
    first = list(range(0, ranks.world, ranks.world // ranks.pipeline_size))
    group = dist.new_group(first, timeout=timedelta(seconds=_EXCHANGE_S), backend="gloo")
    return cast(dist.ProcessGroup, group)


def _is_cut(mapping: ParameterMapping, ranks: Ranks) -> bool:
    """Whether tensor-parallel ranks have slices of it."""
    return mapping.slices(ranks) > 1


def _is_repeated(mapping: ParameterMapping, model: PackedModel) -> bool:
    """Whether this is a tied output layer on another stage than the embedding, which the first stage exports."""
    return not model.pre_process and mapping.names == ("model.embed_tokens.weight",)


def _shares(
    mappings: Sequence[ParameterMapping], ranks: Ranks
) -> tuple[list[list[ParameterMapping]], list[ParameterMapping]]:
    """Decides which rank exports what: the largest tensors first, each by the rank that has the least to export.

    Experts come before all others, as few ranks hold each of them. Every rank finds the same result, because experts are of
    the same sizes whatever their index in the expert groups.

    Returns:
        Tensors that every rank of the stage has a slice of: for each of this rank's tensor-parallel ranks, those that it
        exports. And the experts that this rank exports.
    """
    index = ranks.replica_rank * ranks.tensor_size + ranks.tensor_rank  # of this rank in its stage
    loads = [0] * (ranks.replicas * ranks.tensor_size)
    shared: list[list[ParameterMapping]] = [[] for _ in range(ranks.tensor_size)]
    experts: list[ParameterMapping] = []
    for mapping in sorted(mappings, key=lambda mapping: (not mapping.expert, -_full_bytes(mapping, ranks))):
        stride = ranks.expert_size if mapping.expert else 1
        for first in range(stride):
            least = min(range(first, len(loads), stride), key=loads.__getitem__)
            loads[least] += _full_bytes(mapping, ranks)
            if mapping.expert and least == index:
                experts.append(mapping)
            elif not mapping.expert and least // ranks.tensor_size == ranks.replica_rank:
                shared[least % ranks.tensor_size].append(mapping)
    return shared, experts


def _full_bytes(mapping: ParameterMapping, ranks: Ranks) -> int:
    """Size in bytes of the unsharded tensor."""
    return mapping.parameter.nbytes * mapping.slices(ranks)


def _transfers(share: Sequence[ParameterMapping], ranks: Ranks) -> Iterator[_Transfer]:
    """Groups tensors that are exchanged together: of one dtype, and many small ones or one large one."""
    transfer: _Transfer = []
    for mapping in share:
        size = sum(_full_bytes(other, ranks) for other in [*transfer, mapping])
        if transfer and (size > _TRANSFER_BYTES or mapping.parameter.dtype != transfer[0].parameter.dtype):
            yield transfer
            transfer = []
        transfer.append(mapping)
    if transfer:
        yield transfer
