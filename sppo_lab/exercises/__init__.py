"""The exercises of the notebooks: right answers, inputs, and the mistakes that a check can name."""

from importlib import import_module
from pkgutil import iter_modules

from sppo_lab.checks import Exercise


def collect() -> dict[str, Exercise]:
    """Number to exercise, in the order of the numbers."""
    modules = [import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__)]
    exercises = [exercise for module in modules for exercise in module.EXERCISES]
    return {exercise.number: exercise for exercise in sorted(exercises, key=lambda exercise: exercise.number)}


EXERCISES = collect()
