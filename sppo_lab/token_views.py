"""A recorded response as HTML, its tokens coloured by a number; pure functions over the rows of ``responses.jsonl``."""

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

import torch

from sppo_lab.config import Config
from sppo_lab.loss import clipped_high, clipped_low

Row = dict[str, Any]
ABOVE, BELOW, HIGH = (0, 114, 178), (213, 94, 0), (230, 159, 0)  # blue, vermilion and orange of the figures
END = "⏎ end"  # an arrow, for where the page has it, and a word: no font lacks the letters
STYLE = """<style>
.lab-tokens {line-height: 2.6; padding-bottom: 1em}
.lab-token {position: relative; padding: 1px 2px; margin: 1px; border-radius: 2px; display: inline-block;
  white-space: pre; color: #000; font-family: monospace; line-height: 1.3; border: 1px solid #bbb}
.lab-token:focus {outline: 2px solid #0072B2}
.lab-token:focus::after, .lab-token:hover::after {content: attr(data-number); position: absolute; top: 100%; left: 0;
  z-index: 1; padding: 0 3px; background: #000; color: #fff; font-size: 85%}
</style>"""


@dataclass(frozen=True)
class View:
    """What a token can be coloured by."""

    sentence: str
    numbers: Callable[[Row, Config], list[float]]  # one per token
    middle: float | None = None  # numbers above and below it take two colours; None: one colour, from low to high


def token_values(row: Row, config: Config) -> list[float]:
    """V(s_t) before each token, or V(s_p) again and again where the critic reads the prompt alone."""
    return row.get("token_values") or [row["value"]] * len(row["token_ids"])


def clipped(row: Row, config: Config) -> list[float]:
    """1 where the clip leaves a token without gradient: above 1 + epsilon_high with A > 0; -1 for below, with A < 0."""
    ratio, advantages = torch.tensor(row["ratios"]), torch.tensor(row["token_advantages"])
    upper = config.epsilon if config.epsilon_high is None else config.epsilon_high
    high, low = clipped_high(ratio, advantages, upper), clipped_low(ratio, advantages, config.epsilon)
    return (high.float() - low.float()).tolist()


VIEWS = {
    "advantage": View("the advantage, as the loss takes it", lambda row, _: row["token_advantages"], 0.0),
    "ratio": View("probability after the step over that at sampling", lambda row, _: row["ratios"], 1.0),
    "clip": View("1 or -1 where the clip has taken the gradient away", clipped, 0.0),
    "log-prob": View("log-probability at sampling, in nats", lambda row, _: row["logprobs"]),
    "entropy": View("entropy of the next token after the step, in nats", lambda row, _: row["entropies"]),
    "value": View("what the critic said before the token", token_values),
}


def usable_views(row: Row) -> list[str]:
    """The views that a row has numbers for: no value without a critic."""
    return [name for name in VIEWS if name != "value" or row["value"] is not None or "token_values" in row]


def response_html(row: Row, tokens: list[str], view: str, config: Config) -> str:
    """The response of a row, a box per token; the number shows under the mouse and at the keyboard's focus."""
    numbers = VIEWS[view].numbers(row, config)
    shades = shade(numbers, VIEWS[view].middle)
    boxes = "".join(
        f'<span class="lab-token" role="img" tabindex="0" data-number="{number:z.3f}" style="background: {color}" '
        f'aria-label="{escape(token, quote=True)}, {view} {number:z.3f}">{escape(visible(token))}</span>'
        for token, number, color in zip(tokens, numbers, shades, strict=True)
    )
    return f'{STYLE}<div class="lab-tokens">{escape(row["prompt"])} {boxes}</div>'


def shade(numbers: list[float], middle: float | None) -> list[str]:
    """A colour per number, the strongest at the number furthest from the middle, or at the highest."""
    start = min(numbers) if middle is None else middle
    width = max((abs(number - start) for number in numbers), default=0.0) or 1.0

    def color(number: float) -> str:
        red, green, blue = HIGH if middle is None else ABOVE if number >= start else BELOW
        return f"rgba({red}, {green}, {blue}, {0.6 * abs(number - start) / width:.2f})"

    return [color(number) for number in numbers]


def visible(token: str) -> str:
    """A token as it can be seen: an end, a space or a line break would be nothing on the page."""
    return token.replace("\n", "↵").replace(" ", "·") or END


def response_sentence(row: Row, view: str, config: Config) -> str:
    """The row in a sentence, with the range of what is coloured."""
    numbers = VIEWS[view].numbers(row, config)
    value = "" if row["value"] is None else f", V(s_p) = {row['value']:.2f}"
    cut = ", cut at the limit" if row["truncated"] else ""
    end = "" if row["truncated"] else f" The box {END} is the end-of-sequence token."
    return (
        f"Step {row['step']}: R = {row['reward']:.0f}{value}, mean A = {row['advantage']:+.2f}, "
        f"{len(numbers)} tokens{cut}. {view}: {VIEWS[view].sentence}, from {min(numbers):z.3f} to {max(numbers):z.3f}. "
        f"{colors_sentence(VIEWS[view].middle)}{end}"
    )


def colors_sentence(middle: float | None) -> str:
    """What the colours of ``shade`` say."""
    if middle is None:
        return "The stronger the orange, the higher."
    return f"Blue is above {middle:g}, vermilion below; the stronger, the further."
