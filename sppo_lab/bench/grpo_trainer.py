"""TRL's side of the comparison: its ``GRPOTrainer`` with the same model, prompts, sizes, adapter and optimizer."""

import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from sppo_lab.bench.setup import GROUP, UPDATES, Setup, Timing
from sppo_lab.models import choose_device, choose_dtype, model_path
from sppo_lab.processes import peak_memory_mb
from sppo_lab.tasks import load_task


class Clock(TrainerCallback):
    """When each update ended."""

    def __init__(self):
        self.ends: list[float] = []

    def on_step_end(self, *positional: Any, **named: Any) -> None:
        self.ends.append(time.perf_counter())


class TimedTrainer(GRPOTrainer):
    """GRPOTrainer that notes how long each batch took to write, and how many tokens it has."""

    written: list[tuple[float, int]]

    def _generate_single_turn(self, *positional: Any, **named: Any) -> Any:
        started = time.perf_counter()
        result = super()._generate_single_turn(*positional, **named)
        self.written.append((time.perf_counter() - started, sum(map(len, result[0]))))
        return result


def train_with_trl(setup: Setup) -> Timing:
    """TRL's loop on the embedded problems."""
    task = load_task("chain-sum")
    rows = [{"prompt": problem.prompt, "answer": problem.answer} for problem in task.train]
    dtype = choose_dtype("auto", choose_device("auto"))  # as the lab takes it
    model = AutoModelForCausalLM.from_pretrained(model_path(setup.model), dtype=dtype)
    lora = LoraConfig(
        r=setup.lora_rank, lora_alpha=2 * setup.lora_rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    clock = Clock()
    with tempfile.TemporaryDirectory(prefix="sppo-lab-") as folder:
        settings = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=setup.responses_per_batch // UPDATES,
            steps_per_generation=UPDATES,
            num_generations=GROUP,
            max_completion_length=setup.max_new_tokens,
            max_steps=UPDATES * (setup.batches + 1),
            learning_rate=setup.lr,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            loss_type="grpo",
            beta=0.0,
            generation_kwargs={"min_new_tokens": setup.max_new_tokens} if setup.full_length else None,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=not torch.cuda.is_available(),
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = TimedTrainer(
            model=model,
            reward_funcs=lambda completions, answer, **named: task.rewards(completions, answer),
            args=settings,
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(model_path(setup.model), padding_side="left"),
            peft_config=lora,
            callbacks=[clock],
        )
        trainer.written = []
        trainer.train()
    measured = trainer.written[1:]
    return Timing(
        responses=setup.batches * setup.responses_per_batch,
        tokens=sum(tokens for _, tokens in measured),
        sample_seconds=sum(seconds for seconds, _ in measured),
        seconds=clock.ends[-1] - clock.ends[UPDATES - 1],
        memory_mb=peak_memory_mb(),
    )
