"""A run's metrics in a tracker as well: TensorBoard, Trackio or Weights & Biases, through accelerate's adapters."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from sppo_lab.config import Config
from sppo_lab.errors import LabError

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

PROJECT = "sppo-lab"


def make_tracker(config: Config, folder: Path) -> "GeneralTracker | None":
    """The configured tracker of the run in ``folder``, not yet started; LabError if its library is missing.

    TensorBoard's files go into the run's directory: ``tensorboard --logdir DIR``.  For the others the run has the
    name of its directory, in the project sppo-lab.
    """
    if config.tracker is None:
        return None
    if importlib.util.find_spec(config.tracker) is None:
        raise LabError(f"tracker = {config.tracker!r} needs its library: pip install {config.tracker}")
    from accelerate import PartialState, tracking

    PartialState()  # its trackers' own log asks which process this is
    if config.tracker == "tensorboard":
        return tracking.TensorBoardTracker("tensorboard", logging_dir=folder)
    if config.tracker == "trackio":
        return tracking.TrackioTracker(PROJECT, name=folder.name)
    return tracking.WandBTracker(PROJECT, name=folder.name)
