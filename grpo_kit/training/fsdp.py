"""A model whose weights are shared out among the processes, by PyTorch's FSDP through accelerate, as TRL sets it up."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule
from torch.nn import ModuleList
from transformers import PreTrainedModel


def allow_on_cpus() -> None:
    """accelerate shards on accelerators alone, and PyTorch on CPUs as well. With this, called between GRPOConfig and
    the trainer, the same code shards on both, and can be tried where there is no GPU."""
    if not torch.cuda.is_available():
        PartialState().distributed_type = DistributedType.MULTI_GPU


@contextmanager
def gathered(model: PreTrainedModel) -> Iterator[None]:
    """Each process has all weights meanwhile, if they are shared out: every token that is generated reads them all, and
    to gather them again for each would take longer than to compute it. accelerate keeps what comes last, the head."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    parts = [layer for each in model.modules() if isinstance(each, ModuleList) for layer in each]
    parts += [] if head is not None and head.weight is embedding.weight else [embedding]
    parts = [part for part in parts if isinstance(part, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False)
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(True)
            part.reshard()
