"""A run's adapter for others: a folder in the hub's format with a model card, and its way to the hub."""

import json
import shutil
from pathlib import Path
from typing import Any

from sppo_lab.assets import embedded_models
from sppo_lab.config import Config
from sppo_lab.errors import LabError, first_line
from sppo_lab.figures import run_figure
from sppo_lab.models import load_tokenizer
from sppo_lab.recorder import Recorder, step_of
from sppo_lab.storage import read_json, write_json, writing

CARD = """---
library_name: peft
pipeline_tag: text-generation
{base}tags:
- {algorithm}
- reinforcement-learning
- lora
---

# {title}

A LoRA adapter of rank {rank} on `{model}`, trained on `{task}` by `{algorithm}` with sppo-lab, a workbench for
Sequence-Level PPO ([arXiv 2604.08865](https://arxiv.org/abs/2604.08865)). It is that of step {step}.

{results}

![The run: reward, response length, critic, advantage, clipping, entropy](figure.png)

## Use

```python
{use}
```

{note}
## Settings

```json
{settings}
```

Versions: {versions}.
"""

USE = """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{model}"), "{repo}")
tokenizer = AutoTokenizer.from_pretrained("{repo}")"""


def model_card(recorder: Recorder, step: int, repo: str) -> str:
    """The README.md of the pushed folder: what was trained, how it did, how to load it, with which settings."""
    config = recorder.config
    local = is_local(config.model)
    versions = read_json(recorder.folder / "versions.json")
    return CARD.format(
        base="" if local else f"base_model: {config.model}\n",
        title=repo.rpartition("/")[2],
        algorithm=config.algorithm,
        task=config.task,
        model=config.model,
        rank=config.lora_rank,
        step=step,
        results=_results(recorder, step),
        use=USE.format(model=config.model, repo=repo),
        note=f"`{config.model}` is not on the hub: put the directory of that model in its place.\n\n" if local else "",
        settings=json.dumps(_changed(config), indent=2),
        versions=", ".join(f"{name} {version}" for name, version in versions.items() if name != "platform"),
    )


def write_model(recorder: Recorder, folder: str | Path, repo: str, step: int | None = None) -> Path:
    """Write adapter, tokenizer, card and figure into an absent or empty directory.  Returns the directory."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LabError(f"{folder} is not empty: choose another directory.")
    checkpoint = recorder.checkpoint_of(step)
    number = step_of(checkpoint)
    if not (checkpoint / "adapter" / "adapter_model.safetensors").is_file():
        raise LabError(f"{checkpoint} holds no adapter: it is damaged. Choose another one with --step.")
    with writing(folder):
        shutil.copytree(checkpoint / "adapter", folder, dirs_exist_ok=True)
        settings = read_json(folder / "adapter_config.json")
        write_json(folder / "adapter_config.json", settings | {"base_model_name_or_path": recorder.config.model})
        load_tokenizer(recorder.config.model).save_pretrained(folder)
        run_figure(recorder).savefig(folder / "figure.png", dpi=120)
        (folder / "README.md").write_text(model_card(recorder, number, repo), encoding="utf-8")
        if (recorder.folder / "benchmarks.csv").exists():
            shutil.copy(recorder.folder / "benchmarks.csv", folder)
    return folder


def upload(folder: Path, repo: str, private: bool = False) -> str:
    """Upload the folder to the hub and return its address.  LabError with the remedy if that does not go through."""
    from huggingface_hub import HfApi

    try:
        HfApi().create_repo(repo, private=private, exist_ok=True)
        HfApi().upload_folder(repo_id=repo, folder_path=folder, commit_message="Adapter trained with sppo-lab")
    except Exception as error:  # no login, no network, no right to write there: the library has a class for each
        reason = first_line(error)
        raise LabError(
            f"{repo} could not be uploaded ({type(error).__name__}: {reason}). Check the connection, log in with an "
            "account that may write there (hf auth login), or write the folder alone: --dry-run DIR."
        ) from error
    return f"https://huggingface.co/{repo}"


def is_local(model: str) -> bool:
    """Whether a model lies on this computer alone: an embedded one, or a directory."""
    return model in embedded_models() or Path(model).is_dir()


def _results(recorder: Recorder, step: int) -> str:
    """The evaluations as a table in Markdown; a sentence where there are none."""
    rows = []
    for when in ("before", "after"):
        found = recorder.evaluation(when)
        if found is not None:
            low, high = found.accuracy_interval
            interval = f"{found.accuracy:.3f} ({low:.3f} to {high:.3f})"
            rows.append(f"| {when} training | {len(found.solved)} | {found.samples} | {interval} |")
    if not rows:
        return "The run was not evaluated."
    head = "| test problems | prompts | k | avg@k (95 % interval over prompts) |\n|---|---|---|---|"
    last = step_of(recorder.checkpoint_of())
    other = "" if step == last else f"\n\nThe evaluation after training is that of step {last}, not of this adapter."
    return "\n".join([head, *rows]) + other


def _changed(config: Config) -> dict[str, Any]:
    """The settings that are not at their defaults, and those that name the run; no path of this computer."""
    defaults = Config().to_dict()
    named = ("algorithm", "task", "seed", "steps")
    found = {n: v for n, v in config.to_dict().items() if n in named or v != defaults[n]}
    return {n: Path(v).name if isinstance(v, str) and Path(v).is_absolute() else v for n, v in found.items()}
