"""sppo_lab: reinforcement learning for LLM reasoning, small enough to read.

SPPO (Sequence-Level PPO, arXiv 2604.08865) and the algorithms it is compared with, on one loop.  Reading order:
tasks, rollout, reward, value, advantage, loss, algorithms, trainer, recorder, evaluate, experiment, figures.
"""

__version__ = "0.2.0"
