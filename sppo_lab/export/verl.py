"""A run as verl 0.9.1 takes it up: on Ray, with FSDP for the updates and vLLM for the sampling.

    DIR/launch.sh        starts verl with the settings of the run; what follows it on the command line is added
    DIR/README.md        what verl needs, and what it does differently
    DIR/data/            train.parquet and test.parquet, in verl's columns
    DIR/model/           the policy's base model and tokenizer
    DIR/adapter/         its LoRA adapter, in peft's format
    DIR/critic/          the critic as a token classifier with one label, where there is a critic
    DIR/critic_adapter/  its LoRA adapter and head, where it has one
    DIR/lab/             the lab's own files that verl imports: the verifier and, for SPPO, the plugin

The export needs neither the lab nor the run.
"""

import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from sppo_lab.algorithms import get_algorithm
from sppo_lab.checkpoint import load_weights
from sppo_lab.config import Config
from sppo_lab.errors import LabError
from sppo_lab.export.verl_models import longest_prompt, save_critic, save_policy
from sppo_lab.export.verl_settings import (
    HERE,
    PLUGIN,
    Facts,
    hydra_word,
    needs_critic,
    needs_plugin,
    require_exportable,
    verl_settings,
)
from sppo_lab.models import Policy, load_critic, load_policy
from sppo_lab.recorder import Recorder, step_of
from sppo_lab.storage import write_text, writing
from sppo_lab.tasks import Problem, Task, load_task
from sppo_lab.value import Critic

PACKAGE = Path(__file__).parents[1]
CARRIED = (  # the lab's files that verl imports; none of them needs transformers, peft or the lab's data
    "__init__.py",
    "advantage.py",
    "assets.py",
    "errors.py",
    "export/__init__.py",
    "export/verl_plugin.py",
    "export/verl_reward.py",
    "hub.py",
    "judge_process.py",
    "loss.py",
    "processes.py",
    "reward.py",
    "reward_worker.py",
    "tasks/__init__.py",
    "tasks/base.py",
    "tasks/benchmarks.py",
    "tasks/chain_sum.py",
    "tasks/files.py",
    "tasks/maths.py",
    "tasks/own.py",
    "tasks/reasoning_gym.py",
    "tasks/reasoning_gym_worker.py",
)


def export_verl(run: str | Path, out: str | Path, step: int | None = None) -> Path:
    """Write the export of a run, from its newest checkpoint or that of ``step``; returns the launch script.

    Raises LabError for a run that verl cannot go on with, and for an ``out`` that holds something already.
    """
    recorder, out = Recorder.open(run), Path(out)
    config = get_algorithm(recorder.config.algorithm).fill(recorder.config)
    require_exportable(config)
    checkpoint = recorder.checkpoint_of(step)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise LabError(f"{out} is not empty: choose another directory with --out.")
    task = load_task(config.task, config.data, config.test_data)
    if len(task.train) < config.prompts_per_step:
        raise LabError(
            f"verl takes the {config.prompts_per_step} prompts of a step from one pass over the training problems, and "
            f"there are only {len(task.train)}: train with fewer prompts_per_step."
        )
    with writing(out), tqdm(total=5, desc="exporting", unit="part", leave=False) as bar:
        policy, critic = load_trained(config, checkpoint)
        bar.update()
        prompts = [problem.prompt for problem in task.train + task.test]
        facts = Facts(
            train_prompts=len(task.train),
            longest_prompt=longest_prompt(policy, prompts, config.max_new_tokens),
            steps_done=step_of(checkpoint),
            name=re.sub(r"[^\w.-]+", "-", recorder.folder.resolve().name),
        )
        bar.update()
        if critic is not None:  # first, since it may be refused
            save_critic(critic, policy.tokenizer, out / "critic", out / "critic_adapter")
        bar.update()
        write_data(out / "data", task, config)
        carry_lab(out / "lab")
        bar.update()
        save_policy(policy, out / "model", out / "adapter")
        write_text(out / "README.md", readme(config, facts))
        write_text(out / "launch.sh", launch_script(config, facts))
        bar.update()
    return out / "launch.sh"


def load_trained(config: Config, checkpoint: Path) -> tuple[Policy, Critic | None]:
    """Policy and critic of a checkpoint, in float32 on the CPU, as verl holds them."""
    config = config.replace(device="cpu", dtype="float32")
    policy = load_policy(config)
    critic = load_critic(config, policy) if needs_critic(config) else None
    load_weights(checkpoint, policy, critic)
    return policy, critic


def write_data(folder: Path, task: Task, config: Config) -> None:
    """All training problems, and the test problems that the run evaluates on."""
    folder.mkdir(parents=True)
    for split, problems in (("train", task.train), ("test", task.test[: config.eval_prompts])):
        rows = [verl_row(problem, task.name, split, index) for index, problem in enumerate(problems)]
        pd.DataFrame(rows).to_parquet(folder / f"{split}.parquet", index=False)


def verl_row(problem: Problem, task: str, split: str, index: int) -> dict[str, Any]:
    """A problem in verl's columns; ``data_source`` names the verifier."""
    return {
        "data_source": task,
        "prompt": [{"role": "user", "content": problem.prompt}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": problem.answer},
        "extra_info": {"split": split, "index": index},
    }


def carry_lab(folder: Path) -> None:
    """Copy the lab's files that verl imports."""
    for name in CARRIED:
        target = folder / "sppo_lab" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PACKAGE / name, target)


def launch_script(config: Config, facts: Facts) -> str:
    """A shell script that runs verl with one Hydra override per line."""
    words = [hydra_word(key, value) for key, value in verl_settings(config, facts).items()]
    plugin = [f"export VERL_USE_EXTERNAL_MODULES={PLUGIN}"] if needs_plugin(config) else []
    return "\n".join(
        [
            "#!/usr/bin/env bash",
            f"# {config.algorithm} on {config.task} in verl 0.9.1, from step {facts.steps_done} of run {facts.name}.",
            "# Further settings follow the name of the script and win: bash launch.sh trainer.n_gpus_per_node=8",
            "set -euo pipefail",
            f'{HERE[1:]}="$(cd "$(dirname "${{BASH_SOURCE[0]}}")" && pwd)"',
            f'export PYTHONPATH="{HERE}/lab${{PYTHONPATH:+:$PYTHONPATH}}"',
            *plugin,
            "exec python3 -m verl.trainer.main_ppo \\",
            *[f"  {word} \\" for word in words],
            '  "$@"',
            "",
        ]
    )


def readme(config: Config, facts: Facts) -> str:
    """What the reader of an export must know."""
    more = "" if config.task == "chain-sum" else " and math-verify"
    return f"""# {config.algorithm} on {config.task}, for verl 0.9.1

Written by sppo-lab from step {facts.steps_done} of the run `{facts.name}`. On a machine with a GPU and
`pip install "verl[vllm,fsdp]==0.9.1"`{more}:

    bash launch.sh

Every setting of the run is a line of `launch.sh`. Another one after the name of the script wins over it, as in
`bash launch.sh trainer.n_gpus_per_node=8`. The directory may be moved; several nodes must find it under the same path.

- The weights are those of the checkpoint. Optimizers, random numbers and the order of the prompts begin anew.
- verl holds float32 weights and computes in bfloat16.
- For `sppo` the critic's output, in verl's logs `critic/values`, is the logit of V; `critic/prompt_value_mean` is V.
"""
