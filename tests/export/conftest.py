"""Runs of one step on a few problems, to export."""

import json

import pytest

from sppo_lab.config import Config
from sppo_lab.recorder import Recorder
from sppo_lab.trainer import Trainer

CHAINS = [("7+5-3=", "9"), ("1+1=", "2"), ("9-4+2-1=", "6"), ("3-8=", "-5"), ("2+2+2=", "6"), ("8-9+1=", "0")]
SMALL = {"steps": 3, "prompts_per_step": 4, "max_new_tokens": 12, "eval_prompts": 2, "eval_samples": 2}


@pytest.fixture(scope="session")
def problems():
    """Questions and answers of the runs."""
    return CHAINS


@pytest.fixture(scope="session")
def make_run(tmp_path_factory):
    """A function from settings to the directory of a run with a checkpoint of step 1."""
    file = tmp_path_factory.mktemp("problems") / "chains.jsonl"
    file.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in CHAINS))

    def make(**settings):
        recorder = Recorder.create(
            tmp_path_factory.mktemp("runs") / "run",
            Config(**SMALL | {"data": str(file), "test_data": str(file)} | settings),
        )
        trainer = Trainer(recorder.config)
        trainer.train_step()
        recorder.save_checkpoint(trainer)
        return recorder.folder

    return make


@pytest.fixture(scope="session")
def run(make_run):
    """A run of SPPO."""
    return make_run()


@pytest.fixture(scope="session")
def export(run, tmp_path_factory):
    """Its export, in a directory with a space in its name."""
    from sppo_lab.export.verl import export_verl

    return export_verl(run, tmp_path_factory.mktemp("exports") / "an export").parent
