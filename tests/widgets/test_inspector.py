import pytest

from sppo_lab.config import Config
from sppo_lab.errors import LabError
from sppo_lab.experiment import Experiment
from sppo_lab.widgets.inspector import Inspector

SMALL = {"prompts_per_step": 8, "max_new_tokens": 8, "eval_prompts": 4, "eval_samples": 1, "save_responses": 3}


@pytest.mark.parametrize("algorithm", ["sppo", "ppo", "reinforce"])
def test_every_saved_response_can_be_looked_at(algorithm, tmp_path):
    list(Experiment(Config(algorithm=algorithm, steps=3, **SMALL), tmp_path / "run"))
    inspector = Inspector(tmp_path / "run")
    seen = set()
    views = inspector.controls["view"].field.options
    assert ("value" in views) == (algorithm != "reinforce")
    for step in (1, 2, 3):
        for place in (1, 2, 3):
            for view in views:
                for name, value in (("step", step), ("place", place), ("view", view)):
                    inspector.controls[name].field.value = value
                assert "Traceback" not in inspector.response.value
                assert f"Step {step}:" in inspector.words.value and f"{view}:" in inspector.words.value
                seen.add(inspector.response.value)
    assert len(seen) > 9


def test_a_run_that_goes_on_is_read_again(tmp_path):
    run = Experiment(Config(steps=3, **SMALL), tmp_path / "run")
    steps = iter(run)
    next(steps)
    inspector = Inspector(tmp_path / "run")
    assert inspector.controls["step"].field.max == 1
    list(steps)
    inspector.again.click()
    assert inspector.controls["step"].field.value == 3 and "Step 3:" in inspector.words.value


def test_a_run_without_saved_responses_gets_a_message(tmp_path):
    list(Experiment(Config(steps=1, **SMALL | {"save_responses": 0}), tmp_path / "run"))
    with pytest.raises(LabError, match="holds no saved responses"):
        Inspector(tmp_path / "run")
