"""Every task of reasoning-gym by name, such as ``reasoning-gym:leg_counting``, judged by its own scorer.

Settings follow the name: ``reasoning-gym:chain_sum,max_terms=3,max_digits=1``.  ``size`` is the number of training
problems.  The answer of a problem ends in its place, ``72 (train 12)``: many tasks have several right answers, so
their scorers want the whole entry, which is generated again from its place.
"""

import ast
import base64
import json
import pickle
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tqdm.auto import tqdm

from sppo_lab.errors import LabError
from sppo_lab.judge_process import JudgeProcess
from sppo_lab.tasks.base import Problem, TaskKind

PREFIX = "reasoning-gym:"
PROMPT = "{question}\n\nLet's think step by step and write the final answer between <answer> and </answer>.\n"
RULE = "what stands in the last <answer>…</answer> of a response"
SIZES = {"train": 500, "test": 100}
SEEDS = {"train": 0, "test": 1_000_000}  # row i is made from seed + i, so the two must be far apart
TIMEOUT = 10.0  # seconds for one response; when they are over, it scores 0
ANSWER_LIMIT = 5_000  # characters; a longer answer scores 0
REMEDY = "It needs the reasoning-gym library: pip install reasoning-gym"

_ANSWER = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
_PLACE = re.compile(r"\((train|test) (\d+)\)$")

_judge = JudgeProcess("sppo_lab.tasks.reasoning_gym_worker", "reasoning-gym's answers", REMEDY)


@dataclass(frozen=True)
class GymTask:
    """A task of reasoning-gym with settings that differ from its defaults, as pairs of name and value."""

    name: str
    settings: tuple[tuple[str, Any], ...] = ()
    size: int = SIZES["train"]

    def read(self, path: str | None = None, split: str = "train") -> list[Problem]:
        """Generate the problems of a split; a test problem whose question is also a training question is left out."""
        if path:
            raise LabError(
                f"the problems of {PREFIX}{self.name} are generated, not read from {path}. Leave the file out; "
                f"settings follow the name: {PREFIX}{self.name},size=200"
            )
        taken = set() if split == "train" else {entry["question"] for entry in self.entries("train")}
        problems = [
            Problem(PROMPT.format(question=entry["question"]), f"{entry['answer'] or 'several'} ({split} {row})")
            for row, entry in enumerate(self.entries(split))
            if entry["question"] not in taken
        ]
        if not problems:
            raise LabError(
                f"{PREFIX}{self.name} has too few different problems for a test split with these settings. "
                "Make them harder or lower size."
            )
        return problems

    def entries(self, split: str) -> tuple[dict[str, Any], ...]:
        """reasoning-gym's entries of a split; some tasks take seconds for each."""
        return _generate(self, split)

    def rewards(self, responses: list[str], answers: list[str]) -> list[float]:
        """1.0 where the scorer gives full marks, else 0.0: partial marks are not a solved problem.

        Raises LabError for an answer that does not end in the place of one of the task's problems.
        """
        found = [self.entry_of(answer) for answer in answers]
        return [self.reward(response, entry) for response, entry in zip(responses, found, strict=True)]

    def entry_of(self, answer: str) -> dict[str, Any]:
        """The entry that a problem's answer names."""
        place = _PLACE.search(answer.strip())
        if place is None or int(place[2]) >= len(self.entries(place[1])):
            raise LabError(f"the answer {answer!r:.60} does not end in a problem's place, such as (train 12).")
        return self.entries(place[1])[int(place[2])]

    def reward(self, response: str, entry: dict[str, Any]) -> float:
        answer = tagged_answer(response)
        if not answer or len(answer) > ANSWER_LIMIT:
            return 0.0
        packed = base64.b64encode(pickle.dumps(entry)).decode()
        return float(_judge.ask(self.name, json.dumps(dict(self.settings)), packed, answer, timeout=TIMEOUT))

    def kind(self) -> TaskKind:
        return TaskKind(self.read, self.rewards, tagged_answer, RULE)


def gym_task(name: str) -> GymTask:
    """The task that ``reasoning-gym:NAME,setting=value,…`` means.  Raises LabError if the library has none like it."""
    registry = _registry()
    task, *assignments = [part.strip() for part in name.removeprefix(PREFIX).split(",")]
    if task not in registry:
        raise LabError(f"reasoning-gym has no task {task!r}. It has: {', '.join(sorted(registry))}.")
    settings = dict(_setting(assignment) for assignment in assignments)
    size = settings.pop("size", SIZES["train"])
    if not isinstance(size, int) or size < 2:
        raise LabError(f"size = {size!r} is not a number of training problems: give a whole number from 2 on.")
    return GymTask(task, tuple(settings.items()), size)


def tagged_answer(response: str) -> str:
    """The text of the last complete ``<answer>…</answer>``; empty if there is none."""
    found = _ANSWER.findall(response)
    return found[-1].strip() if found else ""


@lru_cache(maxsize=8)
def _generate(task: GymTask, split: str) -> tuple[dict[str, Any], ...]:
    size = task.size if split == "train" else min(task.size, SIZES["test"])
    try:
        dataset = _registry()[task.name]
        source = dataset[0](dataset[1](**dict(task.settings), seed=SEEDS[split], size=size))
        rows = tqdm(range(size), desc=f"generating {split} problems", unit="problem", leave=False, delay=1)
        return tuple(source[row] for row in rows)
    except Exception as error:  # each task checks its settings in its own way
        said = str(error) or type(error).__name__
        raise LabError(f"reasoning-gym could not make problems of {task.name!r} with these settings: {said}") from error


def _setting(assignment: str) -> tuple[str, Any]:
    """``max_terms=3`` as a pair; the value is a Python literal, or a text."""
    name, mark, value = assignment.partition("=")
    if not mark or not name.strip().isidentifier():
        raise LabError(f"{assignment!r} is not a setting: write NAME,setting=value,setting=value without blanks.")
    try:
        return name.strip(), ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
        return name.strip(), value.strip()


def _registry() -> dict[str, Any]:
    """reasoning-gym's tasks by name."""
    try:
        import reasoning_gym
    except ImportError as error:
        raise LabError(f"reasoning-gym's tasks are not here ({error}). {REMEDY}") from error
    return reasoning_gym.factory.DATASETS
