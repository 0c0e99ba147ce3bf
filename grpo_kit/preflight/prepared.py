"""`kit.prepared(folder)`: a prepared data set, looked at before anything is trained: what was read and repaired, how
long it is in tokens of the model, what of it will be cut, and what can't be answered."""

import json
from collections import Counter
from contextlib import suppress
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from grpo_kit.config.train import TrainConfig
from grpo_kit.data.answerable import act_text, answerable_in_words, unknown_acts
from grpo_kit.data.demo import DATA_FILES, DEFAULT_DATA
from grpo_kit.data.prepare import CARD
from grpo_kit.data.samples import Sample, last_turn, read_samples
from grpo_kit.models.load import load_tokenizer, no_template
from grpo_kit.models.prompts import fit_prompts, prompt_tokens
from grpo_kit.plots.data import data_overview
from grpo_kit.preflight.prototype import Finding

MOST_SAMPLES = 20_000  # of each file
SHOWN = 8
SHORTENED, TOO_LONG, REPLY_CUT = "prompt shortened", "prompt too long", "reply longer than a completion"
PER_CENT = 99  # of the replies, which a longer completion is to hold


class Prepared:
    """The samples of train.jsonl and eval.jsonl in `folder`, of each at most the first 20,000, as the model that
    `config` trains reads them. `places` are their files and lines."""

    def __init__(self, folder: str | Path = DEFAULT_DATA, config: TrainConfig | None = None):
        """Raises BadTrace for a folder without them."""
        self.folder, self.config = Path(folder), config or TrainConfig(data=str(folder))
        self.samples: list[Sample] = []
        self.places: list[tuple[str, int]] = []
        for file in DATA_FILES:
            for line, sample in enumerate(islice(read_samples(self.folder / file), MOST_SAMPLES), 1):
                self.samples.append(sample)
                self.places.append((file, line))
        self.card: dict[str, Any] = {}
        with suppress(FileNotFoundError):  # of a folder that something else has made
            self.card = json.loads((self.folder / CARD).read_text())

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row per sample: file, line, id, asked (the user's last turn), ground_truth, rubric, columns (the data's
        own), services, acts and repairs (names), cut (SHORTENED and so on), tokens (of the whole prompt), reply tokens
        (with the one that ends it), fitted (the prompt), kept (of the reply), unknown acts (how many of the reply's
        acts its prompt does not support), unknown (those), text (all of it), and `sample`.

        Loads the model's tokenizer, not its weights. Raises ConfigError for a model that can't be had."""
        repaired = {name: set(ids) for name, ids in self.card.get("repaired", {}).items()}
        rows = []
        for sample, (file, line) in zip(self.samples, self.places, strict=True):
            unknown, own = unknown_acts(sample), {sample.dialogue_id, sample.id}
            row = {"file": file, "line": line, "asked": last_turn(sample.prompt), "sample": sample}
            row |= {name: getattr(sample, name) for name in ("id", "ground_truth", "rubric", "columns", "services")}
            row |= {"acts": [act.act for act in sample.acts]}
            row |= {"repairs": [name for name, ids in repaired.items() if own & ids]}
            row |= {"unknown acts": len(unknown), "unknown": "; ".join(map(act_text, unknown))}
            told = [sample.id, sample.conversation, sample.ground_truth, sample.rubric, str(sample.columns)]
            rows.append(row | {"text": "\n".join([*told, row["unknown"]])})
        return pd.DataFrame(rows).assign(**self._measured())

    def _measured(self) -> dict[str, list]:
        """The table's columns that are about tokens."""
        config, most = self.config, self.config.max_completion_length
        tokenizer = load_tokenizer(config.model_name, config.chat_template_kwargs)
        prompts, tools = [each.prompt for each in self.samples], [each.tools for each in self.samples]
        if tokenizer.chat_template is None and not all(isinstance(prompt, str) for prompt in prompts):
            raise no_template(config.model_name)
        asked = tqdm(zip(prompts, tools, strict=True), "counting tokens", len(prompts), delay=2, leave=False)
        whole = [len(prompt_tokens(tokenizer, *each)) for each in asked]
        fitted = fit_prompts(prompts, tokenizer, config.max_prompt_length, tools)
        replies = tokenizer([each.ground_truth for each in self.samples], add_special_tokens=False)["input_ids"]
        cut = [
            [SHORTENED] * fit.is_shortened + [TOO_LONG] * fit.is_too_long + [REPLY_CUT] * (len(reply) >= most)
            for fit, reply in zip(fitted, replies, strict=True)
        ]
        found = {"tokens": whole, "reply tokens": [len(reply) + 1 for reply in replies], "cut": cut}
        kept = [tokenizer.decode(reply[:most]) for reply in replies]
        return found | {"fitted": [fit.prompt for fit in fitted], "kept": kept}

    def read(self) -> Finding:
        """What was read, repaired and left out."""
        card, counts = self.card, pd.DataFrame({name: self.card[name] for name in ("dialogues", "samples")})
        done = {f"repaired ({name})": count for name, count in card["repairs"].items()}
        done |= {f"left out ({reason})": count for reason, count in card["skipped"]["reasons"].items()}
        done["left out as duplicates"] = card["left_out_as_duplicate"]
        told = "; ".join(f"{count:,} {what}" for what, count in done.items() if count) or "nothing repaired or left out"
        columns = f" Columns for reward functions: {', '.join(card['columns'])}." if card["columns"] else ""
        return Finding(f"Read from {card['source']}: {told}.{columns}", counts)

    def to_read(self) -> Finding:
        """The samples that are most worth reading: what can't be answered, then what will be cut."""
        found = self.table.assign(cuts=self.table["cut"].map(len), cut=self.table["cut"].map("; ".join))
        found.index = found["file"] + ":" + found["line"].astype(str)
        found = found.sort_values(["unknown acts", "cuts"], ascending=False, kind="stable").head(SHOWN)
        found = found[["asked", "ground_truth", "rubric", "tokens", "cut", "unknown"]]
        cut = sum(self.table["cut"].map(bool))
        says = f"Something will be cut of {cut:,} of {len(self.samples):,} samples." if cut else "Nothing will be cut."
        if self.card.get("answerable", {}).get("turns"):
            says = f"{answerable_in_words(self.card)}. {says}"
        return Finding(says, found.loc[:, found.astype(bool).any()])  # no column that is empty

    def content(self) -> Finding:
        """What there is, and how long it is beside what the model may read and write."""
        services = Counter(name for each in self.samples for name in each.services)
        acts = Counter(act.act for each in self.samples for act in each.acts)
        dialogues, config = len({each.dialogue_id or each.id for each in self.samples}), self.config
        held_out = sum(file == DATA_FILES[1] for file, _ in self.places)
        title = f"{len(self.samples):,} samples from {dialogues:,} dialogues, {held_out:,} held out"
        prompts, replies = (self.table[name].tolist() for name in ("tokens", "reply tokens"))
        limits = {
            f"prompt, tokens of {config.model_name}": (prompts, "max_prompt_length", config.max_prompt_length),
            "reply, tokens": (replies, "max_completion_length", config.max_completion_length),
        }
        counts = {"samples per service": services, "dialogue acts in the replies": acts}
        figure = data_overview(title, limits, {name: found for name, found in counts.items() if found})
        return Finding(self._cut(), self.table[["tokens", "reply tokens"]].describe().round(1), figure)

    def counts(self) -> dict[str, int]:
        """How many samples will be cut, by how."""
        found = Counter(name for names in self.table["cut"] for name in names)
        return {name: found[name] for name in (SHORTENED, TOO_LONG, REPLY_CUT)}

    def _cut(self) -> str:
        """How many prompts and replies will be cut, in words."""
        counts, n, lengths, replies = self.counts(), len(self.samples), self.table["tokens"], self.table["reply tokens"]
        prompt, reply = self.config.max_prompt_length, self.config.max_completion_length
        says = f"All {n:,} prompts fit into max_prompt_length={prompt} tokens (the longest has {lengths.max()})."
        if over := sum(lengths > prompt):
            says = f"{over:,} of {n:,} prompts have more than max_prompt_length={prompt} tokens (the longest has "
            says += f"{lengths.max():,}): {counts[SHORTENED]:,} lose old tool results or turns, and "
            says += f"{counts[TOO_LONG]:,} stay longer all the same."
        if not counts[REPLY_CUT]:
            return f"{says} All replies fit into max_completion_length={reply} (the longest has {replies.max()})."
        enough = int(np.percentile(replies, PER_CENT, method="higher"))
        says += f" {counts[REPLY_CUT]:,} of {n:,} replies are longer than a completion may be, max_completion_length="
        return f"{says}{reply}: a model that answers like them is cut. {enough} would hold {PER_CENT}% of all replies."


prepared = Prepared
