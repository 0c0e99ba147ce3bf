"""The tensors' memory at the peak of each phase of the kit's own training, for the formula in grpo_kit/memory.py.

On a CPU torch's profiler lists every allocation and release, which are summed up: the same run gives the same bytes
each time, whatever the C library keeps of freed memory. On a GPU it is what CUDA's allocator says.
"""

import gc
import multiprocessing
import os
from multiprocessing import forkserver
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import PartialState
from torch._C._profiler import _EventType
from torch.distributed.elastic.utils.distributed import get_free_port
from torch.distributed.tensor import DTensor
from torch.multiprocessing import start_processes
from transformers import AutoConfig, AutoModelForCausalLM

from grpo_kit.backends.run import Run
from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.memory import GIB, Device, memory_needed
from grpo_kit.data.samples import Sample
from grpo_kit.models.load import load_tokenizer, torch_threads
from grpo_kit.models.shapes import shape_of
from grpo_kit.runs.writer import NullRunWriter, RunWriter, open_run
from grpo_kit.training.grpo import build_trainer
from grpo_kit.training.progress import RunProgress
from grpo_kit.training.trainer import KitTrainer


class Peaks(NamedTuple):
    """Bytes of tensors, weights and all: the most while completions are made, and the most of the rest of a step."""

    generating: int
    updating: int


def make_model(folder: Path, family: str, **sizes) -> str:
    """The folder of a model of this shape, with random weights and the tiny model's tokenizer."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{"max_position_embeddings": 4096, "tie_word_embeddings": True, **sizes})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    load_tokenizer("tiny").save_pretrained(folder)
    return str(folder)


def foretold(config: TrainConfig) -> Peaks:
    """As memory.py counts them."""
    memory = memory_needed(config, shape_of(config.model_name), Device(torch.cuda.is_available(), 0.0))
    always = memory.weights + memory.trained
    return Peaks(round((always + memory.generating) * GIB), round((always + memory.updating) * GIB))


def measured(config: TrainConfig, folder: Path) -> Peaks:
    """The peaks of a training, whose second step is the first with the optimiser's state. The run is in `folder`.

    The longest prompt of a step and its completions are as long as they may be; the other prompts are shorter, so that
    there is a mask, as in real runs. Of several processes it is the last one's, which writes nothing.
    """
    run = open_run(config, {"rewards": ["length"], "data": {"folder": "", "fingerprint": ""}}, folder)
    if config.num_processes == 1:
        with RunWriter(run, config) as writer:
            return _peaks(config, writer)
    multiprocessing.set_forkserver_preload([__name__])  # so that torch and TRL are loaded once for all
    found = multiprocessing.get_context("forkserver").SimpleQueue()
    start_processes(_take_part, (config, run, get_free_port(), found), config.num_processes, start_method="forkserver")
    peaks = found.get()
    forkserver._forkserver._stop()
    return peaks


def _take_part(rank: int, config: TrainConfig, run: Run, port: int, found: SimpleQueue) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": config.num_processes, "MASTER_PORT": port}
    place |= {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_TORCH_DEVICE": "cpu"}
    os.environ |= {name: str(value) for name, value in place.items()}
    PartialState(cpu=True)
    is_last = rank + 1 == config.num_processes
    peaks = _peaks(config, (NullRunWriter if rank else RunWriter)(run, config))
    if is_last:
        found.put(peaks)


def _peaks(config: TrainConfig, writer: NullRunWriter | RunWriter) -> Peaks:
    samples = [_sample(config.max_prompt_length - i % 4, i) for i in range(config.prompts_per_step)]
    with torch_threads(1):  # attention takes some workspace for each thread
        trainer = build_trainer(samples, {_length: 1.0}, RunProgress(writer, echo=lambda line: None))
        return _cuda_peaks(trainer) if torch.cuda.is_available() else _cpu_peaks(trainer)


def _sample(tokens: int, i: int) -> Sample:
    tokenizer = load_tokenizer("tiny")
    prompt = tokenizer.decode([500] * tokens)  # any token that stays one beside itself
    assert len(tokenizer(prompt)["input_ids"]) == tokens
    return Sample(id=str(i), prompt=prompt, ground_truth="")


def _length(completions, **columns) -> list[float]:
    return [len(completion) / 100 for completion in completions]


def _cpu_peaks(trainer: KitTrainer) -> Peaks:
    """Tensors that are there when the profiler begins, with the first completions, are counted by their storages."""
    profile, storages = torch.autograd.profiler.profile(profile_memory=True), {}
    generate = trainer._generate

    def marked(prompts):
        if not storages:
            tensors = [*trainer.model.parameters(), *trainer.model.buffers()]
            if trainer.ref_model is not None:
                tensors += trainer.ref_model.parameters()
            for tensor in (each.to_local() if isinstance(each, DTensor) else each for each in tensors):
                storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            gc.collect()
            profile.__enter__()
        with torch.profiler.record_function("generating"):
            return generate(prompts)

    trainer._generate = marked
    trainer.train()
    profile.__exit__(None, None, None)
    nodes, changes, spans = list(profile.kineto_results.experimental_event_tree()), [], []
    while nodes:
        node = nodes.pop()
        nodes += node.children
        if node.tag == _EventType.Allocation:
            changes.append((node.start_time_ns, node.extra_fields.ptr, node.extra_fields.alloc_size))
        elif node.name == "generating":
            spans.append((node.start_time_ns, node.end_time_ns))
    assert spans
    there: dict[int, int] = {}
    now, most = sum(storages.values()), [0, 0]
    for at, address, size in sorted(changes):
        if size > 0:
            there[address] = size
            now += size
        else:
            now -= there.pop(address, 0)  # what was not made in this run is not counted in it
        updating = not any(start <= at <= end for start, end in spans)
        most[updating] = max(most[updating], now)
    return Peaks(*most)


def _cuda_peaks(trainer: KitTrainer) -> Peaks:
    most = [0, 0]
    generate = trainer._generate

    def take(updating: bool) -> None:
        most[updating] = max(most[updating], torch.cuda.max_memory_allocated())
        torch.cuda.reset_peak_memory_stats()

    def marked(prompts):
        take(updating=True)
        completions = generate(prompts)
        take(updating=False)
        return completions

    trainer._generate = marked
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    trainer.train()
    take(updating=True)
    return Peaks(*most)
