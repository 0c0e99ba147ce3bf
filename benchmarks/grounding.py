"""Measures what a model that nobody trained scores with history alone in its prompts, with results, and with acts.

    make smollm2
    .venv/bin/python benchmarks/grounding.py path/to/sgd/dev [--n 100] [--grounds history results acts]

Prepares a Schema-Guided Dialogue folder once for each `--ground`, has SmolLM2-135M-Instruct answer the same n turns
with each (temperature 0, no prompt cut), lets the offline judge score them, writes benchmarks/grounding.json and prints
a Markdown table of mean scores by class of act, and what each ground gains over the first on the same turns.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path

import pandas as pd

import grpo_kit as kit
from grpo_kit.data.samples import read_samples, to_lines
from grpo_kit.models.load import SMOLLM2, download_model
from grpo_kit.utils.statistics import bootstrap_interval

SEED = 7
SETTINGS = {"temperature": 0.0, "judge": "offline", "second_judge": None, "batch_size": 8, "seed": SEED}
LENGTHS = {"max_prompt_length": 4096, "max_completion_length": 64}  # the longest prompts have some 1,500 tokens
FILE = Path(__file__).with_suffix(".json")


def prepared(traces: Path, grounds: list[str], n: int, out: Path) -> dict[str, Path]:
    """Folders by ground, whose eval.jsonl have the same n turns."""
    held_out = {}
    for ground in grounds:
        kit.prepare(traces, out / ground, ground=ground, eval_fraction=0.5)
        held_out[ground] = {sample.id: sample for sample in read_samples(out / ground / "eval.jsonl")}
    common = set.intersection(*(set(samples) for samples in held_out.values()))
    chosen = random.Random(SEED).sample(sorted(common), n)
    for ground, samples in held_out.items():
        (out / ground / "eval.jsonl").write_bytes(to_lines([samples[each] for each in chosen]))
    return {ground: out / ground for ground in grounds}


def answered(data: Path, n: int, model: Path) -> pd.DataFrame:
    """The model's evaluation on all of `data`: a row per turn, by its id."""
    evaluation = kit.evaluate.local(model, data=str(data), n=n, **SETTINGS, **LENGTHS)
    assert not [note for note in evaluation.results["notes"] if "to fit max_prompt_length" in note], "a prompt was cut"
    samples = evaluation.samples().set_index("id")
    return samples.rename(columns={f"{evaluation.trained['name']} score": "score"})


def markdown(table: pd.DataFrame) -> str:
    head = ["", *table.columns]
    rows = [head, ["---", *["---:"] * len(table.columns)], *([name, *row] for name, *row in table.itertuples())]
    return "\n".join(f"| {' | '.join(f'{v:.3f}' if isinstance(v, float) else str(v) for v in row)} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("traces", type=Path, help="a Schema-Guided Dialogue folder that nothing was trained on")
    parser.add_argument("--n", type=int, default=100, help="how many turns")
    parser.add_argument("--grounds", nargs="+", default=["history", "results", "acts"])
    parser.add_argument("--model", default=SMOLLM2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, args.model.split("/")[-1])  # the evaluation goes beside its files, which are linked
        model.mkdir()
        for file in download_model(args.model).iterdir():
            (model / file.name).symlink_to(file)
        data = prepared(args.traces, args.grounds, args.n, Path(folder))
        found = {ground: answered(data[ground], args.n, model) for ground in args.grounds}
    scores = pd.DataFrame({ground: samples["score"] for ground, samples in found.items()})
    acts = found[args.grounds[0]]["act"].reindex(scores.index)
    by_act = scores.groupby(acts).mean()
    by_act.insert(0, "n", acts.value_counts())
    by_act.loc["all"] = [len(scores), *scores.mean()]
    by_act["n"] = by_act["n"].astype(int)
    gains = {}
    for ground in args.grounds[1:]:
        gain = (scores[ground] - scores[args.grounds[0]]).dropna()
        gains[ground] = {"mean": gain.mean(), "interval": bootstrap_interval(gain.to_numpy(), SEED), "n": len(gain)}
    print(markdown(by_act))
    for ground, gain in gains.items():
        low, high = gain["interval"]
        print(f"\n{ground} less {args.grounds[0]}: {gain['mean']:+.3f} [{low:+.3f}, {high:+.3f}] (n={gain['n']})")
    result = {
        "model": args.model,
        "settings": SETTINGS | LENGTHS,
        "by_act": by_act.round(4).to_dict("index"),
        "gains": gains,
        "scores": scores.assign(act=acts).to_dict("index"),
    }
    FILE.write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
