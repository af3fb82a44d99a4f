import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sppo_lab import reward
from sppo_lab.errors import LabError
from sppo_lab.judge_process import JudgeProcess
from sppo_lab.reward import final_answer, math_rewards
from sppo_lab.tasks.maths import read_gsm8k, read_math

pytest.importorskip("math_verify")

ROOT = Path(__file__).resolve().parents[1]
REAL_DATA = ROOT.parent / "shared" / "data"
ENDLESS = r"\boxed{9^{9^{9^9}}}"  # hangs inside one C call, which no Python exception interrupts
SLACK = 15.0  # seconds allowed on a busy machine, beyond the time-out itself

needs_real_data = pytest.mark.skipif(not REAL_DATA.is_dir(), reason=f"no real problems in {REAL_DATA}")
needs_posix = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and fork")


def boxed(text: str) -> str:
    return rf"\boxed{{{text}}}"


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (r"\boxed{5}", "5"),
        (r"first \boxed{5}, then \boxed{6}.", "6"),
        (r"\boxed{5} and \fbox{6}", "6"),
        (r"\fbox{5} and \boxed {6}", "6"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{5} and an unclosed \boxed{6", "5"),
        (r"\boxed{x = \boxed{5}}", r"x = \boxed{5}"),
        (r"\boxed{5} #### 6", "5"),
        (r"\boxed{5}} }", "5"),
        ("so 6 + 7 = 13\n#### 13", "13"),
        ("#### 12\n#### 13\nDone.", "13"),
        ("####\n13\n", "13"),
        ("13\n####  \n", ""),
        ("one\ntwo\n\n", "two"),
        ("5", "5"),
        ("", ""),
        (" \n\t", ""),
        (r"\boxed{5", r"\boxed{5"),
        (r"\boxed{}", ""),
        (r"\boxed{5}" + "x" * reward.RESPONSE_LIMIT, "x" * reward.RESPONSE_LIMIT),
    ],
)
def test_final_answer(response, expected):
    assert final_answer(response) == expected


RIGHT = [
    ("72", "#### 72"),
    ("72", "072"),
    ("1234", "$1,234"),
    ("1234", boxed(r"\$1,234")),
    ("1234", boxed("1{,}234")),
    ("1234", boxed(r"1,\!234")),
    ("10000", r"10\,000"),
    ("10,000", "10000"),
    ("1000000", "1 000 000"),
    ("540", "$540.00"),
    ("18", "€18"),
    ("18", "18£"),
    ("18", "18 dollars"),
    ("18", "She makes $18 every day."),
    ("18", "She makes 18 dollars per day at the farmers' market."),
    ("-5", "-$5"),
    ("-5", boxed("−5")),
    ("-4", "negative 4"),
    ("5", boxed(r"5 \text{ cm}")),
    ("5", "5cm"),
    (r"5 \text{ cm}", "5 centimeters"),
    ("12", "12 km/h"),
    ("8", boxed(r"8\ \text{m}^2")),
    ("8", boxed(r"8 \text{ m}/\text{s}")),
    ("13", boxed(r"13 \text{ square feet}")),
    (r"90^\circ", "90"),
    ("90", boxed(r"90^{\circ}")),
    ("90", "90°"),
    ("90", "90 degrees"),
    ("50", boxed(r"50\%")),
    (r"12.5\%", "12.5"),
    ("0.5", "50%"),
    ("50%", r"\frac12"),
    (r"\frac{3}{4}", "3/4"),
    (r"\frac34", boxed(r"\dfrac{3}{4}")),
    ("3/4", "0.75"),
    ("0.75", boxed(r"\frac34")),
    (r"\frac34", ".75"),
    (r"\frac43", r"1\frac{1}{3}"),
    ("2.5", "2 1/2 hours"),
    ("2000000", "2 million"),
    ("42", "The answer is 42."),
    ("42", "The answer is **42**."),
    ("42", "**Answer:** 42"),
    ("42", "`42`"),
    ("42", r"\[42\]"),
    ("42", "Therefore, the answer is: $\\boxed{42}$."),
    ("42", boxed(r"\text{The answer is } 42")),
    ("7", "So they have 3 + 4 = 7 apples."),
    ("5", "x = 5"),
    ("5", "x is 5"),
    ("x=5", "5"),
    ("x=5", boxed("x = 5.")),
    ("120", "5!"),
    (r"\sqrt{51}", "√51"),
    (r"3\sqrt{13}", boxed(r"\sqrt{117} \text{ units}")),
    (r"\pi", "π"),
    ("p - q", "-q + p"),
    ("x^2", "x**2"),
    (r"\cot x", r"\frac{\cos x}{\sin x}"),
    ("6 - 5i", "-5i + 6"),
    ("(a+5)(b+2)", "ab + 2a + 5b + 10"),
    (r"(3, \frac{\pi}{2})", boxed(r"\left(3, \dfrac{\pi}{2}\right)")),
    ("(-2,1)", "(-2.0, 1)"),
    (r"x \in [-2,7]", "[-2, 7]"),
    (r"x \in [-2,7]", boxed(r"-2 \le x \le 7")),
    ("(3,4]", boxed(r"3 < x \le 4")),
    (r"(-\infty,2)\cup(3,\infty)", r"(3,\infty)\cup(-\infty,2)"),
    ("3, 5, 7", r"\boxed{7, 5 \text{ and } 3}"),
    ("1,-2", boxed(r"x=1 \text{ or } x=-2")),
    (r"\{1,2\}", boxed(r"\{2, 1\}")),
    (r"1 \pm \sqrt{19}", boxed(r"1+\sqrt{19}, 1-\sqrt{19}")),
    (r"\begin{pmatrix} -1/3 \\ 2 \end{pmatrix}", boxed(r"\begin{bmatrix} -\frac13 \\ 2 \end{bmatrix}")),
    ("52_8", "52_{8}"),
    ("52_8", "52"),
    (r"\text{Evelyn}", "The answer is Evelyn."),
    (r"\text{Evelyn}", boxed(r"\textbf{evelyn}")),
    (r"\text{(C)}", boxed("C")),
    (r"\text{(C)}", "(C)"),
    ("east", r"\text{East}"),
]


@pytest.mark.parametrize(("gold", "response"), RIGHT)
def test_right_answers_score_one(gold, response):
    assert math_rewards([response], [gold]) == [1.0]


WRONG = [
    ("1234", "12,34"),
    ("12.34", "12,34"),
    ("235", "1 234"),
    ("72", "720"),
    ("720", "72"),
    ("72", "72.0000001"),
    ("5", "-5"),
    ("-5", "5"),
    ("4", "minus 4 apples"),
    ("1/3", "0.33"),
    (r"\frac{12}{3}", r"\frac{1}{23}"),
    ("1/2", "1 1/2"),
    ("11/2", "1 1/2"),
    ("0.0000001", "0"),
    ("3.14", r"\pi"),
    ("(2,3)", "(3,2)"),
    ("(1,2)", "[1,2]"),
    ("[1,2]", "(1,2)"),
    ("(3,4]", "(3,4)"),
    ("[-2,7]", "-2 < x < 7"),
    ("(1,2)", boxed(r"\{1,2\}")),
    (r"\{1,2\}", "(1,2)"),
    ("1,-2", "(-2,1)"),
    ("5", "5 or 6"),
    ("6", "5 or 6"),
    ("5", boxed(r"5 \text{ or } 6")),
    ("6", boxed(r"5 \text{ or } 6")),
    ("5", "The answer is 5 or 6."),
    ("6", "The answer is 5 or 6."),
    ("6", "The answer is between 5 and 6."),
    ("5", r"\boxed{5} or \boxed{6}"),
    ("5", "5, 6"),
    ("5", "The answer is not 5."),
    ("5", "The answer isn't 5."),
    ("12", "12 of the 15 apples"),
    ("2", "2 million"),
    ("2", "2 and a half"),
    ("2", "2 dozen eggs"),
    ("5", "2 + 2 = 5"),
    ("5", "x > 5"),
    ("5", boxed(r"5 \neq 6")),
    ("5", "5x"),
    ("5", "5t"),  # a variable, not a tonne
    ("5t", "5"),
    ("x=5", "y=5"),
    ("p - q", "q - p"),
    ("2", "x^2"),
    ("5", r"\sqrt{5}"),
    ("50%", "5"),
    ("0.5", "5%"),
    ("3, 5, 7", "3, 5"),
    (r"1 \pm \sqrt{19}", r"1-\sqrt{19}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", boxed(r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}")),
    ("52_8", "52_7"),
    ("52_8", "42"),
    (r"\text{Evelyn}", "Angela"),
    (r"\text{east}", "seat"),  # equal as products of letters
    ("east", "seat"),
    ("east", boxed(r"\text{east or west}")),
    ("5", "five"),
    ("5", ""),
    ("5", r"\boxed{}"),
    ("5", r"\boxed{5"),
    ("1", r"\infty"),
    ("2", "2/0"),
]


@pytest.mark.parametrize(("gold", "response"), WRONG)
def test_wrong_answers_score_zero(gold, response):
    assert math_rewards([response], [gold]) == [0.0]


def test_order_is_kept():
    cases = [(gold, response, 1.0) for gold, response in RIGHT]
    cases += [(gold, response, 0.0) for gold, response in WRONG]
    cases = cases[::2] + cases[1::2]
    golds, responses, expected = zip(*cases, strict=True)
    assert math_rewards(list(responses), list(golds)) == list(expected)


def real_answers() -> list[str]:
    if not REAL_DATA.is_dir():
        return []
    problems = read_gsm8k(REAL_DATA / "gsm8k_test_200.jsonl") + read_math(REAL_DATA / "math500_120.jsonl")
    return [problem.answer for problem in problems]


@needs_real_data
@pytest.mark.parametrize("wrapping", ["{}", r"\boxed{{{}}}", "Thus the answer is ${}$.", "#### {}"])
def test_real_answers_are_right_by_themselves(wrapping):
    answers = real_answers()
    assert len(answers) == 320
    rewards = math_rewards([wrapping.format(answer) for answer in answers], answers)
    assert [answer for answer, right in zip(answers, rewards, strict=True) if not right] == []


@needs_real_data
@pytest.mark.parametrize("change", ["{}+1", "2({})", "{},1000001", "{}7"])
def test_real_answers_changed_are_wrong(change):
    answers = [answer for answer in real_answers() if answer != "0"]
    changed = [boxed(change.format(answer)) for answer in answers]
    rewards = math_rewards(changed, answers)
    assert [answer for answer, right in zip(changed, rewards, strict=True) if right] == []


HOSTILE = {
    "tower": ENDLESS,
    "python tower": "9**9**9**9",
    "huge power": r"\boxed{10^{10^{10}}}",
    "factorials": r"\boxed{((((9!)!)!)!)}",
    "long sum": r"\boxed{\sum_{i=1}^{10^{12}} \frac{1}{i}}",
    "large expansion": r"\boxed{(x+y+z)^{400} - (x+y-z)^{400}}",
    "nested parentheses": boxed("(" * 400 + "5" + ")" * 400),
    "100k parentheses": "(" * 100_000,
    "100k braces": "{" * 100_000 + "5" + "}" * 100_000,
    "20k boxes": r"\boxed{" * 20_000 + "5",
    "one megabyte of digits": "1" * 1_000_000,
    "one megabyte of text": "the answer is " * 70_000,
    "nested fractions": boxed(r"\frac{" * 150 + "1" + "}{2}" * 150),
    "backtracking": "5 " + "a " * 450 + "!",
    "backtracking units": "5 apples" + " a-/." * 150 + "!",
    "signs": "is " * 150 + "- " * 150,
    "NUL": boxed("5\x00"),
    "lone surrogate": boxed("5\ud800"),
    "only a surrogate": "\ud800",
    "line separators": "\r\n\x85\u2028",
    "dollars": "$" * 900,
    "protocol": '"]\n1\n["',
}


@pytest.mark.parametrize("response", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_responses_score_zero_in_time(response):
    started = time.monotonic()
    assert math_rewards([response], [r"\frac{\pi}{2}"], timeout=1.0) == [0.0]
    assert time.monotonic() - started < 1.0 + SLACK


def test_code_in_a_response_is_not_run(tmp_path):
    target = tmp_path / "made"
    code = f"__import__('pathlib').Path({str(target)!r}).touch()"
    responses = [code, boxed(code), f"#### {code}", f"The answer is ${code}$."]
    assert math_rewards(responses, ["5"] * 4) == [0.0] * 4
    assert not target.exists()


def test_hang_costs_its_own_item_and_a_new_worker_takes_the_next():
    started = time.monotonic()
    rewards = math_rewards(["x = 5", ENDLESS, "x = 5"], ["5", "7", "5"], timeout=2.0)
    assert rewards == [1.0, 0.0, 1.0]
    assert 2.0 <= time.monotonic() - started < 2.0 + SLACK


def test_worker_is_reused():
    math_rewards(["x = 5"], ["5"])
    first = reward._judge._process.pid
    math_rewards(["x = 6"], ["6"])
    assert reward._judge._process.pid == first


def test_worker_killed_between_items_is_replaced():
    math_rewards(["x = 5"], ["5"])
    reward._judge._process.kill()
    reward._judge._process.wait()
    assert math_rewards(["x = 5"], ["5"]) == [1.0]


def test_worker_killed_while_judging_scores_zero():
    math_rewards(["x = 5"], ["5"])
    threading.Timer(0.5, reward._judge._process.kill).start()
    started = time.monotonic()
    assert math_rewards([ENDLESS, "x = 5"], ["7", "5"], timeout=60.0) == [0.0, 1.0]
    assert time.monotonic() - started < SLACK


@needs_posix
def test_interrupt_leaves_no_stale_reply():
    def interrupt(*_):
        raise KeyboardInterrupt

    math_rewards(["x = 5"], ["5"])
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(KeyboardInterrupt):
            math_rewards([ENDLESS], ["7"], timeout=60.0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert math_rewards(["x = 5", "x = 6"], ["5", "5"]) == [1.0, 0.0]


def test_threads_share_the_worker():
    results: dict[int, list[float]] = {}

    def ask(number: int) -> None:
        results[number] = math_rewards([f"x = {number}", f"x = {number + 1}"] * 10, [str(number)] * 20)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: [1.0, 0.0] * 10 for number in range(4)}


def start_script(folder: Path, code: str) -> subprocess.Popen[str]:
    """Run ``code`` as a user's script: no ``__main__`` guard, started from another folder."""
    script = folder / "script.py"
    script.write_text(code, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, cwd=folder, env=environment
    )


def test_a_script_without_main_guard_runs_once(tmp_path):
    code = "from sppo_lab.reward import math_rewards\nprint(math_rewards(['x = 5'], ['5']))\n"
    output, _ = start_script(tmp_path, code).communicate(timeout=60)
    assert output == "[1.0]\n"


def test_import_stays_quick(tmp_path):
    code = (
        "import sys, sppo_lab.reward, sppo_lab.tasks.maths\n"
        "print(sorted({'math_verify', 'sympy', 'datasets', 'pandas', 'torch'} & set(sys.modules)))\n"
    )
    output, _ = start_script(tmp_path, code).communicate(timeout=60)
    assert output == "[]\n"


def is_running(pid: int) -> bool:
    """Whether ``pid`` runs; a process that has ended and waits to be collected does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")


def ends_within(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_running(pid)


ANNOUNCE = """
from sppo_lab import reward
reward.math_rewards(["x = 5"], ["5"])
print(reward._judge._process.pid, flush=True)
"""


@needs_posix
@pytest.mark.parametrize("then", ["input()", f"reward.math_rewards([{ENDLESS!r}], ['7'], timeout=2.0)"])
def test_worker_ends_with_a_killed_parent(tmp_path, then):
    read_end, write_end = os.pipe()  # keeps input() waiting
    script = tmp_path / "script.py"
    script.write_text(ANNOUNCE + then, encoding="utf-8")
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=read_end,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    worker = int(parent.stdout.readline())
    assert is_running(worker)
    time.sleep(0.5)  # let the second script be in the middle of its endless item
    assert parent.poll() is None
    parent.kill()
    parent.wait()
    assert ends_within(worker, 2.0 + SLACK)
    os.close(read_end)
    os.close(write_end)


@needs_posix
def test_worker_ends_at_a_normal_exit(tmp_path):
    output, _ = start_script(tmp_path, ANNOUNCE).communicate(timeout=60)
    assert ends_within(int(output), SLACK)


@needs_posix
def test_forked_process_gets_a_worker_of_its_own(tmp_path):
    code = ANNOUNCE + (
        "import os\n"
        "child = os.fork()\n"
        "rewards = reward.math_rewards([f'x = {n}' for n in range(10)], ['7'] * 10)\n"
        "assert rewards == [float(n == 7) for n in range(10)]\n"
        "print(reward._judge._process.pid, flush=True)\n"
        "if child:\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
    )
    script = start_script(tmp_path, code)
    output, _ = script.communicate(timeout=60)
    assert script.returncode == 0
    first, *later = output.split()
    assert first in later
    assert len(set(later)) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="other systems may refuse the limit")
def test_memory_is_limited():
    code = (
        "from sppo_lab.judge_process import MEMORY_LIMIT, limit_memory\n"
        "limit_memory()\n"
        "try:\n    bytearray(MEMORY_LIMIT)\nexcept MemoryError:\n    print('refused')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout == "refused\n"


def test_missing_library_is_named(tmp_path, monkeypatch):
    (tmp_path / "math_verify.py").write_text("raise ImportError('No module named math_verify')")
    monkeypatch.syspath_prepend(tmp_path)
    judge = JudgeProcess("sppo_lab.reward_worker", "answers", "pip install math-verify")
    with pytest.raises(LabError, match=r"No module named math_verify.*pip install"):
        judge.ask("x = 5", "5", timeout=5.0)


def test_worker_speaks_one_line_per_question():
    questions = [["x = 5", "5", 30.0], ["x = 6", "5", 30.0], ["\x00", "5", 30.0]]
    result = subprocess.run(
        [sys.executable, "-m", "sppo_lab.reward_worker"],
        input="".join(json.dumps(question) + "\n" for question in questions),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert result.stdout == "ready\n1\n0\n0\n"


@pytest.mark.parametrize(
    ("responses", "answers", "timeout", "message"),
    [
        (["5"], [], 5.0, "1 responses and 0 answers"),
        (["5", "6"], ["5", " "], 5.0, r"answers\[1\] is blank"),
        (["5"], ["5"], 0.0, "positive number of seconds"),
        (["5"], ["5"], float("nan"), "positive number of seconds"),
    ],
)
def test_mistaken_calls(responses, answers, timeout, message):
    with pytest.raises(LabError, match=message):
        math_rewards(responses, answers, timeout=timeout)


def test_nothing_to_judge():
    assert math_rewards([], []) == []
