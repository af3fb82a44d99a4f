"""Pretrain the embedded models on imperfect solutions: data/models/{tiny,tiny-small}.

    python data/make_models.py

The corpus is what makes them a fair stand-in for a pretrained LLM before reinforcement learning: most
solutions *guess* the answer outright, some *work it out* step by step, and a worked step slips now and then,
the more often the larger the term that it adds or takes away.  No prompt of the test split is ever shown.
"""

import argparse
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sppo_lab.tasks.chain_sum import ANSWER_MARK, running_totals, split_terms, worked_solution

DATA = Path(__file__).parent
CONTEXT = 128
TYPICAL_LENGTH = 16  # response tokens per solution, about
SIZES = {
    "tiny": {"hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 3, "num_attention_heads": 4},
    "tiny-small": {"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 2, "num_attention_heads": 2},
}


@dataclass(frozen=True)
class Habits:
    """How the imagined author of the corpus solves a chain of n terms."""

    worked_short: float = 0.70  # share of worked solutions at 2 terms, falling linearly ...
    worked_long: float = 0.20  # ... to this share at 8 terms
    guess_right: float = 0.90  # chance that a guess is right at 2 terms, times guess_decay per further term
    guess_decay: float = 0.6
    slip_per_unit: float = 0.025  # chance that a step slips, per unit of its term: none for 0, 22 % for 9

    def worked_share(self, terms: int) -> float:
        return self.worked_short + (self.worked_long - self.worked_short) * (terms - 2) / 6


SCHOOLBOOK = Habits(worked_short=0.7, worked_long=1.0, guess_right=1.0, guess_decay=0.9, slip_per_unit=0.0)
SCHOOL = 0.75  # share of the pretraining steps that show the schoolbook


def slipped_totals(prompt: str, habits: Habits, rng: random.Random) -> list[int]:
    """Running totals in which each step may be off by 1 or 2; later steps carry the slip on."""
    first, *rest = split_terms(prompt)
    totals = [first]
    for term in rest:
        slips = rng.random() < habits.slip_per_unit * abs(term)
        totals.append(totals[-1] + term + (rng.choice((-2, -1, 1, 2)) if slips else 0))
    return totals


def imperfect_solution(prompt: str, habits: Habits, rng: random.Random) -> str:
    """One line of the corpus: a worked solution, perhaps with slips, or an outright guess."""
    terms = len(split_terms(prompt))
    if rng.random() < habits.worked_share(terms):
        return worked_solution(prompt, slipped_totals(prompt, habits, rng))
    right = rng.random() < habits.guess_right * habits.guess_decay ** (terms - 2)
    guess = running_totals(prompt)[-1] + (0 if right else rng.choice((-4, -3, -2, -1, 1, 2, 3, 4)))
    return f"{ANSWER_MARK}{guess}"


def random_prompt(rng: random.Random) -> str:
    terms = [str(rng.randint(0, 9)) for _ in range(rng.randint(2, 8))]
    return terms[0] + "".join(rng.choice("+-") + term for term in terms[1:]) + "="


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, so that any text can be encoded, with <pad> and <eos> in front."""
    special = ["<pad>", "<eos>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(special + alphabet)}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<eos>",
        padding_side="left",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def corpus_batches(tokenizer, batch: int, steps: int, forbidden: set[str], seed: int):
    """Yield ``steps`` pairs of token ids and labels, each (batch, T); prompts and padding carry label -100.

    The first share ``SCHOOL`` of the steps shows mostly worked solutions: how to calculate.  The rest shows
    how people really answer.  Solutions are drawn for eight batches at once and sorted by length, so that little is
    padding.
    """
    rng = random.Random(seed)
    for start in range(0, steps, 8):
        habits = SCHOOLBOOK if start < SCHOOL * steps else Habits()
        rows = []
        while len(rows) < 8 * batch:
            prompt = random_prompt(rng)
            if prompt not in forbidden:
                rows.append((prompt, imperfect_solution(prompt, habits, rng)))
        rows.sort(key=lambda row: len(row[0] + row[1]))
        groups = [rows[i : i + batch] for i in range(0, len(rows), batch)]
        rng.shuffle(groups)
        for group in groups[: steps - start]:
            ids = [[*tokenizer.encode(p + r), tokenizer.eos_token_id] for p, r in group]
            width = max(map(len, ids))
            tokens = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in ids])
            labels = torch.full_like(tokens, -100)
            for i, ((prompt, _), row) in enumerate(zip(group, ids, strict=True)):
                labels[i, len(prompt) : len(row)] = tokens[i, len(prompt) : len(row)]
            yield tokens, labels


def pretrain(name: str, out: Path, steps: int, batch: int, lr: float, seed: int) -> float:
    """Train one model from scratch, save it in the hub's format, and return the seconds it took."""
    started = time.perf_counter()
    torch.manual_seed(seed)
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        **SIZES[name],
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=steps, pct_start=0.05)
    test_rows = (DATA / "chain_sum" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    forbidden = {json.loads(row)["question"] for row in test_rows}
    progress = tqdm(corpus_batches(tokenizer, batch, steps, forbidden, seed), total=steps, desc=name)
    for tokens, labels in progress:
        # A fixed divisor: a mean over each batch's own tokens would make the first token of a short guess weigh
        # more than that of a long worked solution, and the model would hardly ever work anything out.
        loss = model(input_ids=tokens, labels=labels, num_items_in_batch=batch * TYPICAL_LENGTH).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    folder = out / name
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--out", type=Path, default=DATA / "models", help="default data/models")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name in args.models:
        seconds = pretrain(name, args.out, args.steps, args.batch, args.lr, args.seed)
        print(f"{args.out / name}: {args.steps} steps in {seconds:.0f} s")


if __name__ == "__main__":
    main()
