"""What every contestant is given, and what is measured of it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Setup:
    """One cell of the comparison: GRPO with these sizes, two updates per batch of responses."""

    model: str  # as in Config
    responses_per_batch: int  # GROUP to a prompt
    max_new_tokens: int
    full_length: bool = False  # every response runs to max_new_tokens; else it ends where the model ends it
    batches: int = 8  # measured, after one that is not
    lora_rank: int = 16
    lr: float = 1e-4

    @property
    def label(self) -> str:
        """``64 x 32``, or ``64 ragged``."""
        return f"{self.responses_per_batch} " + (f"x {self.max_new_tokens}" if self.full_length else "ragged")


GROUP = 8  # responses per prompt
UPDATES = 2  # per batch


@dataclass(frozen=True)
class Timing:
    """What one contestant did, in seconds over all measured batches."""

    responses: int
    tokens: int  # of responses, the end token included
    sample_seconds: float
    seconds: float  # from the end of the first batch to the end of the last, everything in it
    memory_mb: float  # peak of the process, or of the GPU
    sample_floor: float | None = None  # seconds for the bare matrix products of the sampling
    update_floor: float | None = None  # and of the updates

    @property
    def tokens_per_second(self) -> float:
        """Of sampling alone."""
        return self.tokens / self.sample_seconds

    @property
    def responses_per_second(self) -> float:
        """Of sampling, judging and training."""
        return self.responses / self.seconds
