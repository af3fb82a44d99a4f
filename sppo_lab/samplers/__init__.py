"""Who writes the responses.  Every sampler is a function of the same form, and a policy names the one it is read by:

``write(policy, prompt_ids, prompt_mask, group_size, max_new_tokens, temperature, noise)``

takes N prompts, padded on the left (N, P), and writes ``group_size`` responses to each, B in all, those to one prompt
together.  ``noise`` (B, max_new_tokens) is uniform on [0, 1) and decides the tokens; None for the most probable ones.
It returns the response ids (B, T), the log-probability of each when it was written (B, T), both arbitrary beyond a
response's end, and the lengths (B,), the end token included.
"""

from sppo_lab.samplers.continuous import write_by_continuous_batching
from sppo_lab.samplers.generate import write_by_generate
from sppo_lab.samplers.graph import write_by_graph
from sppo_lab.samplers.lab import write

SAMPLERS = {
    "lab": write,
    "graph": write_by_graph,
    "generate": write_by_generate,
    "continuous": write_by_continuous_batching,
}
