import json
import shutil

import pandas as pd
import pytest
import torch

from sppo_lab.checkpoint import load_weights
from sppo_lab.config import Config
from sppo_lab.errors import LabError
from sppo_lab.metrics import TIMING
from sppo_lab.recorder import Recorder
from sppo_lab.trainer import Trainer

CONFIG = Config(steps=4, prompts_per_step=4, max_new_tokens=16, save_responses=2)


def recorded(folder, task, steps: int, checkpoint_after: int) -> Recorder:
    """A run of some steps whose only checkpoint is older than its last rows, as a kill leaves it."""
    recorder = Recorder.create(folder, CONFIG)
    trainer = Trainer(CONFIG, task)
    for record in trainer:
        recorder.write_step(record)
        if record.step == checkpoint_after:
            recorder.save_checkpoint(trainer)
        if record.step == steps:
            break
    return recorder


@pytest.fixture(scope="module")
def killed(tmp_path_factory, policy):
    from sppo_lab.tasks import Problem, Task
    from sppo_lab.tasks.chain_sum import chain_sum_rewards

    problems = [Problem("7+5-3=", "9"), Problem("1+1=", "2")]
    task = Task("chain-sum", problems, problems, chain_sum_rewards)
    folder = tmp_path_factory.mktemp("runs") / "killed"
    recorded(folder, task, steps=3, checkpoint_after=2)
    return folder, task


@pytest.fixture
def run(killed, tmp_path):
    folder, task = killed
    return Recorder.open(shutil.copytree(folder, tmp_path / "run")), task


def test_a_response_row_holds_reward_value_advantage_and_token_logprobs(run):
    recorder, _ = run
    rows = recorder.responses()
    assert [row["step"] for row in rows] == [1, 1, 2, 2, 3, 3]
    for row in rows:
        assert row["advantage"] == pytest.approx(row["reward"] - row["value"], abs=1e-5)
        assert len(row["logprobs"]) == len(row["token_ids"]) and max(row["logprobs"]) <= 0


def test_resuming_drops_later_rows_and_repeats_them_exactly(run):
    recorder, task = run
    before = recorder.metrics()
    trainer = Trainer(CONFIG, task)
    recorder.restore(trainer)
    assert trainer.step == 2 and list(recorder.metrics()["step"]) == [1, 2]
    recorder.write_step(trainer.train_step())
    pd.testing.assert_frame_equal(
        recorder.metrics().drop(columns=list(TIMING)), before.drop(columns=list(TIMING)), check_exact=True
    )
    assert {row["step"] for row in recorder.responses()} == {1, 2, 3}


def test_half_a_line_left_by_a_kill_is_not_read(run):
    recorder, _ = run
    with (recorder.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "rew')
    assert list(recorder.metrics()["step"]) == [1, 2, 3]


def test_half_a_checkpoint_left_by_a_kill_is_passed_over(run):
    recorder, task = run
    partial = recorder.folder / "checkpoints" / "step-000003.partial"
    partial.mkdir()
    (partial / "trainer.pt").write_bytes(b"half")
    trainer = Trainer(CONFIG, task)
    recorder.restore(trainer)
    assert trainer.step == 2


def test_old_checkpoints_are_dropped(tmp_path, small_task):
    recorder = Recorder.create(tmp_path / "run", CONFIG)
    trainer = Trainer(CONFIG, small_task)
    for _ in trainer:
        recorder.save_checkpoint(trainer)
    assert [path.name for path in recorder.checkpoints()] == ["step-000003", "step-000004"]


def test_the_adapter_is_in_peft_format(run):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from sppo_lab.models import model_path

    recorder, task = run
    base = AutoModelForCausalLM.from_pretrained(model_path("tiny"))
    loaded = PeftModel.from_pretrained(base, recorder.checkpoints()[-1] / "adapter")
    trainer = Trainer(CONFIG, task)
    load_weights(recorder.checkpoints()[-1], trainer.policy, trainer.critic)
    ids = torch.tensor([trainer.policy.tokenizer.encode("7+5=")])
    torch.testing.assert_close(loaded(input_ids=ids).logits, trainer.policy.model(input_ids=ids).logits)


@pytest.mark.parametrize("name", ["adapter/adapter_model.safetensors", "critic.safetensors", "trainer.pt"])
@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_a_damaged_checkpoint_gets_a_clear_error(run, name, damage):
    recorder, task = run
    path = recorder.checkpoints()[-1] / name
    if damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.unlink()
    with pytest.raises(LabError, match=r"missing or damaged .* Delete the directory"):
        recorder.restore(Trainer(CONFIG, task))


def test_damaged_metrics_get_a_clear_error(run):
    recorder, task = run
    lines = (recorder.folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (recorder.folder / "metrics.jsonl").write_text(lines[0] + "garbage\n" + lines[2])
    with pytest.raises(LabError, match=r"metrics.jsonl, line 2 is damaged"):
        recorder.metrics()
    (recorder.folder / "metrics.jsonl").write_text(lines[1])
    with pytest.raises(LabError, match="does not hold steps 1 to 2"):
        recorder.restore(Trainer(CONFIG, task))


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"steps": 3}'])
def test_a_foreign_directory_is_refused_and_left_alone(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(LabError, match="is not a run directory"):
        Recorder.open(tmp_path)
    with pytest.raises(LabError, match="something other than a run"):
        Recorder.create(tmp_path, CONFIG, overwrite=True)
    assert (tmp_path / "config.json").read_text() == content


def test_a_run_of_another_format_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"sppo_lab_run": 99, "config": {}}))
    with pytest.raises(LabError, match="run format 99"):
        Recorder.open(tmp_path)


def test_overwriting_replaces_the_run_and_keeps_other_files(run):
    recorder, _ = run
    with pytest.raises(LabError, match="already holds a run"):
        Recorder.create(recorder.folder, CONFIG)
    (recorder.folder / "notes.txt").write_text("mine")
    fresh = Recorder.create(recorder.folder, CONFIG.replace(steps=9), overwrite=True)
    assert fresh.metrics().empty and fresh.checkpoints() == [] and Recorder.open(fresh.folder).config.steps == 9
    assert (fresh.folder / "notes.txt").read_text() == "mine"


def test_a_new_run_may_begin_where_a_kill_left_half_a_config(tmp_path):
    (tmp_path / "config.json.partial").write_text("{")
    assert Recorder.create(tmp_path, CONFIG).config == CONFIG


def test_versions_are_saved(run):
    saved = json.loads((run[0].folder / "versions.json").read_text())
    assert saved["torch"] == torch.__version__ and {"date", "python", "transformers", "peft"} <= set(saved)
