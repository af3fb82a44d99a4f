"""What the docs say of a GPU's speed: each sampler per position, and a pass of an update by the size of its batch.

python tests/gpu_speed.py                        a random model of Qwen2.5-0.5B's shape, 64 responses of 256 tokens
python tests/gpu_speed.py --model tiny --tokens 32 --quantize 4bit
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from sppo_lab.config import Config
from sppo_lab.errors import LabError
from sppo_lab.models import Policy, choose_device, load_policy, load_tokenizer
from sppo_lab.processes import peak_memory_mb
from sppo_lab.rollout import Rollouts, response_logprobs, sample
from sppo_lab.samplers import SAMPLERS

PROMPTS = ["7+5-3=", "1+1=", "9-4+2-1+8-3-3+5=", "3-8=", "1+2=", "9-9=", "8-3=", "4+4="]
GROUP = 8


def save_random_model(folder: str) -> None:
    """Qwen2.5-0.5B's shape, random weights, the embedded tokenizer."""
    tokenizer = load_tokenizer("tiny")
    tokenizer.model_max_length = 32768
    shape = Qwen2Config(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.device(choose_device("auto")):
        Qwen2ForCausalLM(shape).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def seconds(work: Callable[[], object], repeats: int = 2) -> float:
    """The fastest of so many, after one that is not counted; the GPU's work is waited for."""
    found = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return min(found[1:])


def write(policy: Policy, tokens: int) -> Rollouts:
    generator = torch.Generator(policy.device).manual_seed(0)
    return sample(policy, PROMPTS, max_new_tokens=tokens, group_size=GROUP, generator=generator)


def update_pass(policy: Policy, rollouts: Rollouts, count: int) -> None:
    logprobs, _ = response_logprobs(policy.model, rollouts.select(torch.arange(count)), 1.0)
    logprobs.sum().backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a directory or name (default: a random model)")
    parser.add_argument("--tokens", type=int, default=256, help="of each response (default: %(default)s)")
    parser.add_argument("--quantize", choices=("4bit",))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.model is None:
            save_random_model(folder)
        config = Config(model=options.model or folder, quantize=options.quantize, lora_rank=16, lora_alpha=32.0)
        policy = load_policy(config).endless()
    count = len(PROMPTS) * GROUP
    print(f"{options.model or 'a random model'}, {policy.model.dtype}, {count} responses of {options.tokens} tokens")
    for name, sampler in SAMPLERS.items():
        used = seconds(lambda sampler=sampler: write(replace(policy, sampler=sampler), options.tokens), repeats=1)
        speed = count * options.tokens / used
        print(f"{name:>12}  {1000 * used / options.tokens:6.2f} ms per position, {speed:8,.0f} tokens/s", flush=True)
    rollouts = write(policy, options.tokens)
    for part in (1, 4, 8, 16, 32, 64):
        used = seconds(lambda part=part: update_pass(policy, rollouts, part))
        print(f"{part:>12}  responses forward and backward: {1000 * used:.0f} ms", flush=True)
    print(f"peak memory so far: {peak_memory_mb():,.0f} MiB")


if __name__ == "__main__":
    try:
        main()
    except LabError as error:
        sys.exit(f"error: {error}")
