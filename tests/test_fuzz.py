"""Generated input, most of it bad: everything gets a message or a score, nothing a traceback.

``FUZZ=10000 pytest tests/test_fuzz.py`` makes that many of each instead of the numbers below.
"""

import csv
import io
import json
import math
import os
import time
from dataclasses import fields

import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sppo_lab.algorithms import ALGORITHMS
from sppo_lab.cli import main
from sppo_lab.config import Config
from sppo_lab.errors import LabError
from sppo_lab.reward import math_rewards
from sppo_lab.tasks import TASKS, Problem, Task
from sppo_lab.tasks.chain_sum import chain_sum_rewards
from sppo_lab.trainer import Trainer

pytestmark = pytest.mark.timeout(0 if "FUZZ" in os.environ else 600)
TIMEOUT = 0.5  # seconds for one response; math_rewards allows 5, which would make this test slow
RESTART = 20.0  # seconds in which a judge that was ended is replaced, on a busy machine


def examples(count, **more):
    """That many, or what FUZZ says; the same ones every time."""
    return settings(
        max_examples=int(os.environ.get("FUZZ", count)),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        **more,
    )


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(["nan", "1e9", "-1"])
)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=2), st.dictionaries(st.text(max_size=3), SCALARS, max_size=2))
NAMES = st.one_of(st.sampled_from([setting.name for setting in fields(Config)]), st.text(max_size=8))


@examples(1000)
@given(st.dictionaries(NAMES, VALUES, min_size=1, max_size=6))
def test_a_configuration_is_allowed_or_refused_in_words(values):
    try:
        config = Config.from_dict(values)
    except LabError as error:
        assert str(error)
    else:
        assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


OPTIONS = st.sampled_from(["--" + setting.name.replace("_", "-") for setting in fields(Config)])


@examples(100)
@given(st.lists(st.tuples(OPTIONS, st.text(max_size=8) | st.integers().map(str)), min_size=1, max_size=4))
def test_a_command_line_is_understood_or_refused_in_words(pairs):
    """With ``--algorithm`` of a name that there is not, so that none of them starts a run."""
    words = [word for pair in pairs for word in pair]
    try:
        status = main(["train", "--out", "/dev/null/run", *words, "--algorithm", "no such"])
    except SystemExit as stopped:
        status = stopped.code
    assert status in (0, 2)  # 0: --help, abbreviated


SMALL_RUNS = st.fixed_dictionaries(
    {
        "algorithm": st.sampled_from(list(ALGORITHMS)),
        "seed": st.integers(0, 2**40),
        "prompts_per_step": st.integers(1, 4),
        "max_new_tokens": st.integers(1, 16),
    },
    optional={
        "group_size": st.integers(1, 4),
        "filter_groups": st.booleans(),
        "max_gen_batches": st.integers(1, 3),
        "overlong_buffer": st.floats(0, 1),
        "sample_batch_size": st.integers(1, 8),
        "temperature": st.floats(1e-3, 5),
        "advantage_scale": st.sampled_from(["none", "group", "whiten"]),
        "gamma": st.floats(0, 1),
        "gae_lambda": st.floats(0, 1),
        "prune": st.floats(0, 0.99),
        "lr": st.floats(1e-8, 1),
        "lora_rank": st.integers(1, 4),
        "epsilon_high": st.floats(0.01, 10),
        "dual_clip": st.floats(1.1, 10),
        "importance_sampling_level": st.sampled_from(["token", "sequence"]),
        "aggregation": st.sampled_from(
            ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"]
        ),
        "kl_coef": st.floats(0, 1),
        "kl_estimator": st.sampled_from(["k1", "k2", "k3"]),
        "entropy_coef": st.floats(0, 1),
        "mask_truncated": st.booleans(),
        "epochs": st.integers(1, 2),
        "mini_batches": st.integers(1, 4),
        "micro_batch_size": st.integers(1, 4),
        "critic": st.sampled_from(["model", "adapter"]),
        "critic_lora_rank": st.integers(0, 2),
        "critic_warmup": st.integers(0, 1),
        "save_responses": st.integers(0, 4),
        "gradient_checkpointing": st.booleans(),
    },
)
CHAINS = [Problem("7+5-3=", "9"), Problem("1+1=", "2"), Problem("9-4+2-1=", "6"), Problem("3-8=", "-5")]
CHAIN_TASK = Task("chain-sum", CHAINS, CHAINS, chain_sum_rewards)


@pytest.mark.slow
@examples(30, phases=[Phase.generate])  # to make a failing run smaller takes minutes
@given(SMALL_RUNS)
def test_settings_in_any_combination_train_or_are_refused_in_words(values):
    try:
        trainer = Trainer(Config(**values, steps=2), CHAIN_TASK)
        records = [trainer.train_step(), trainer.train_step()]
    except LabError as error:
        assert str(error)
    else:
        assert not any(math.isnan(number) for record in records for number in record.metrics.values())


KEYS = st.sampled_from(["question", "answer", "problem", "solution", "x"])
TEXTS = st.one_of(
    st.text(max_size=20), st.sampled_from(["7+5-3=", "9", "#### 72", r"\boxed{5}", r"\boxed{", "####", "1e999"])
)
ROWS = st.lists(st.dictionaries(KEYS, TEXTS | VALUES, max_size=4) | VALUES, max_size=4)


def written(path, rows, mangled):
    """The rows in the file's format, as far as they go into it; ``mangled`` is cut out of the bytes."""
    if path.suffix == ".csv":
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["question", "answer", "problem", "solution"])
        writer.writerows([str(cell) for cell in row.values()] for row in rows if isinstance(row, dict))
        content = text.getvalue().encode(errors="surrogatepass")
    elif path.suffix == ".parquet":
        frame = pd.DataFrame([{name: str(cell) for name, cell in row.items()} for row in rows if isinstance(row, dict)])
        buffer = io.BytesIO()
        frame.map(lambda cell: str(cell).encode(errors="replace").decode()).to_parquet(buffer)
        content = buffer.getvalue()
    elif path.suffix == ".json":
        content = json.dumps(rows).encode()
    else:
        content = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode(errors="surrogatepass")
    start, end = sorted(mangled)
    path.write_bytes(content[:start] + content[end:])


@examples(1000)
@given(
    st.sampled_from(["chain-sum", "gsm8k", "math"]),
    st.sampled_from([".jsonl", ".json", ".csv", ".parquet"]),
    ROWS,
    st.just((0, 0)) | st.tuples(st.integers(0, 60), st.integers(0, 60)),
)
def test_a_file_of_problems_is_read_or_refused_in_words(tmp_path_factory, task, ending, rows, mangled):
    path = tmp_path_factory.getbasetemp() / f"fuzzed{ending}"
    written(path, rows, mangled)
    try:
        problems = TASKS[task].read(path)
    except LabError as error:
        assert str(path) in str(error)
    else:
        assert problems and all(problem.prompt.strip() and problem.answer.strip() for problem in problems)


VOCABULARY = r"""
\boxed{ \fbox{ } { ^ _ \frac \sqrt \text{ \left( \right) ( ) [ ] $ \( \) = < > , . ; + - * / ! | & % #### # 0 1 9 99
1e9 9^ ^9 x y \pi \infty \sum_{i=1}^{9} \int \log \begin{pmatrix} \end{pmatrix} \\ \cdot \times NaN None True
__import__ lambda import ** // 0x 1/0 is the answer dollars apples ½ ∞ π 𝟗 ٣
"""
PIECES = VOCABULARY.split()
HOSTILE = st.one_of(
    st.text(max_size=200),
    st.lists(st.sampled_from(PIECES), max_size=40).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=30).map(lambda pieces: r"\boxed{" + " ".join(pieces) + "}"),
    st.tuples(st.sampled_from(PIECES), st.integers(1, 400)).map(lambda pair: "#### " + pair[0] * pair[1]),
)


@examples(1000)
@given(HOSTILE, st.integers(-999_999_999, 999_999_999).map(str))
def test_any_response_to_a_chain_is_scored(response, answer):
    assert chain_sum_rewards([response], [answer])[0] in (0.0, 1.0)


@pytest.mark.slow
@examples(150)
@given(HOSTILE, st.sampled_from(["72", "-1", r"\frac{\pi}{2}", r"\text{Evelyn}", "(1, 2)", "x^2+1", r"\{1, 2\}"]))
def test_any_response_to_a_problem_in_mathematics_is_scored_in_time(response, answer):
    pytest.importorskip("math_verify")
    started = time.monotonic()
    assert math_rewards([response], [answer], timeout=TIMEOUT)[0] in (0.0, 1.0)
    assert time.monotonic() - started < TIMEOUT + RESTART
