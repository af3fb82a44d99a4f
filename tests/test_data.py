"""The embedded world: problems without overlap, a base model that stands where a pretrained LLM stands before RL."""

import json
import re

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sppo_lab.assets import data_folder, embedded_models
from sppo_lab.evaluate import evaluate
from sppo_lab.rollout import sample
from sppo_lab.tasks import load_task

MODELS = ("tiny", "tiny-small")


def test_datasets_loads_the_problems_and_the_splits_do_not_overlap(tmp_path):
    from datasets import load_dataset

    problems = load_dataset(str(data_folder() / "chain_sum"), cache_dir=str(tmp_path))
    train, test = (problems[split]["question"] for split in ("train", "test"))
    assert len(set(train)) == len(train) == 3849 and len(set(test)) == len(test) == 388
    assert not set(train) & set(test)
    assert set(problems["test"]["num_terms"]) == set(range(2, 10))


def test_every_answer_is_right():
    for split in ("train", "test"):
        for line in (data_folder() / "chain_sum" / f"{split}.jsonl").read_text().splitlines():
            row = json.loads(line)
            assert re.fullmatch(r"\d([+-]\d)+=", row["question"])
            assert eval(row["question"][:-1]) == int(row["answer"])
            assert row["num_terms"] == len(re.findall(r"\d", row["question"]))


@pytest.mark.parametrize("name", MODELS)
def test_the_embedded_models_are_small_and_load_from_the_hubs_format(name):
    folder = embedded_models()[name]
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in folder.iterdir()}
    assert sum(path.stat().st_size for path in folder.iterdir()) < 4e6
    assert AutoModelForCausalLM.from_pretrained(folder).num_parameters() < 1e6


@pytest.mark.parametrize("name", MODELS)
def test_any_text_can_be_encoded(name):
    tokenizer = AutoTokenizer.from_pretrained(embedded_models()[name])
    assert tokenizer.is_fast
    for text in ("".join(map(chr, range(32, 127))), "7+5-3=", "a  b\n\tc", "π ≈ 3,14 – naïve 数学 🙂", " <eos"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_base_model_guesses_and_works_out_and_its_solve_rates_spread(policy):
    """25 to 45 % at temperature 1, per-prompt rates from near 0 to near 1 (avg@16 over all test prompts)."""
    task = load_task("chain-sum")
    found = evaluate(policy, task.test, task.rewards, samples=16, max_new_tokens=88)
    assert 0.25 <= found.accuracy <= 0.45
    assert (found.pass_rates <= 0.1).mean() > 0.05 and found.pass_rates.max() >= 0.8
    assert np.std(found.pass_rates) > 0.15

    drawn = sample(policy, [p.prompt for p in task.test], max_new_tokens=88, generator=torch.Generator().manual_seed(0))
    rewards = np.array(task.rewards(drawn.texts, [p.answer for p in task.test]))
    worked = np.array(["=" in text for text in drawn.texts])
    assert 0.15 < worked.mean() < 0.6
    assert rewards[worked].mean() > rewards[~worked].mean() + 0.2  # so RL must choose to reason ...
    assert rewards[worked].mean() < 0.9  # ... and slip less
