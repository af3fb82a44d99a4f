import json
import sys
from pathlib import Path

import pytest

from sppo_lab.errors import LabError
from sppo_lab.tasks.base import Problem
from sppo_lab.tasks.files import read_jsonl, read_rows
from sppo_lab.tasks.maths import MATH_SUBJECTS, read_gsm8k, read_math

REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_real_data = pytest.mark.skipif(not REAL_DATA.is_dir(), reason=f"no real problems in {REAL_DATA}")

GSM8K = {"question": "What is 70 + 2?", "answer": "70 + 2 = <<70+2=72>>72\n#### 72"}
MATH = {"problem": "What is $\\frac12 + \\frac14$?", "answer": "\\frac{3}{4}"}


@pytest.fixture
def write(tmp_path):
    """Write text or bytes to a new file and return its path."""

    def write_file(content: str | bytes, name: str = "problems.jsonl") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


def lines(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def test_gsm8k_problem(write):
    (problem,) = read_gsm8k(write(lines(GSM8K)))
    assert problem == Problem(
        'What is 70 + 2?\n\nLet\'s think step by step and output the final answer after "####".\n', "72"
    )


def test_math_problem(write):
    (problem,) = read_math(write(lines(MATH)))
    assert problem == Problem(
        "What is $\\frac12 + \\frac14$?\n\nLet's think step by step and output the final answer within \\boxed{}.\n",
        "\\frac{3}{4}",
    )


def test_math_answer_is_cut_out_of_the_solution(write):
    solution = "Not \\boxed{1} but $\\boxed{\\frac{3}{4}}$, as \\{x\\} shows."
    (problem,) = read_math(write(lines({"problem": "?", "solution": solution})))
    assert problem.answer == "\\frac{3}{4}"


def test_answer_goes_before_solution(write):
    (problem,) = read_math(write(lines(MATH | {"solution": "no box"})))
    assert problem.answer == "\\frac{3}{4}"


def test_last_mark_counts(write):
    (problem,) = read_gsm8k(write(lines(GSM8K | {"answer": "#### 1\n#### 2,125 "})))
    assert problem.answer == "2,125"


def test_braces_in_a_question_are_kept(write):
    (problem,) = read_math(write(lines(MATH | {"problem": "Is {x} in \\{0, 1\\}?"})))
    assert problem.prompt.startswith("Is {x} in \\{0, 1\\}?\n\n")


@needs_real_data
@pytest.mark.parametrize("name", ["gsm8k_train_400.jsonl", "gsm8k_test_200.jsonl"])
def test_real_gsm8k(name):
    problems = read_gsm8k(REAL_DATA / name)
    assert len(problems) == int(name.split("_")[2].removesuffix(".jsonl"))
    assert all(problem.answer.replace(",", "").lstrip("-").isdigit() for problem in problems)


@needs_real_data
def test_real_math():
    problems = read_math(REAL_DATA / "math500_120.jsonl")
    assert len(problems) == 120
    assert problems[0].answer == "\\left( 3, \\frac{\\pi}{2} \\right)"


FORMATS = {
    "jsonl": lambda path: path.write_text("\n" + lines(GSM8K, GSM8K) + "\n"),
    "json": lambda path: path.write_text(json.dumps([GSM8K, GSM8K], indent=1)),
    "csv": lambda path: path.write_text('answer,question\n"#### 72",What is 70 + 2?\n' + '"#### 72","?"\n'),
    "txt": lambda path: path.write_text(lines(GSM8K, GSM8K)),
}


@pytest.mark.parametrize("ending", FORMATS)
def test_formats(tmp_path, ending):
    path = tmp_path / f"problems.{ending}"
    FORMATS[ending](path)
    first, second = read_gsm8k(path)
    assert first.prompt.startswith("What is 70 + 2?\n")
    assert (first.answer, second.answer) == ("72", "72")


def test_parquet(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    pandas.DataFrame([GSM8K, GSM8K]).to_parquet(tmp_path / "problems.parquet")
    assert [problem.answer for problem in read_gsm8k(tmp_path / "problems.parquet")] == ["72", "72"]


def test_marks_of_other_editors(write):
    content = b"\xef\xbb\xbf" + lines(GSM8K, GSM8K).replace("\n", "\r\n").encode()
    assert len(read_gsm8k(write(content))) == 2


def test_line_separator_inside_a_string(write):
    record = GSM8K | {"question": "a\u2028b"}
    (problem,) = read_gsm8k(write(json.dumps(record, ensure_ascii=False)))
    assert problem.prompt.startswith("a\u2028b\n")


def test_rows_know_their_lines(write):
    path = write("\n" + lines(GSM8K) + "\n\n" + lines(GSM8K | {"extra": 1}))
    rows = read_jsonl(path, ("question",))
    assert [row.where for row in rows] == [f"{path}, line 2", f"{path}, line 5"]
    assert rows[1].fields == GSM8K | {"extra": 1}


def test_csv_rows_know_their_lines(write):
    path = write('question,answer\n"two\nlines",#### 1\nb,#### 2\n', "problems.csv")
    assert [row.where for row in read_rows(path, ("question",))] == [f"{path}, line 3", f"{path}, line 4"]


BAD_GSM8K = [
    ("{]", ["line 2", "not JSON", "one JSON object"]),
    (json.dumps([1, 2]), ["line 2", "expected an object", "[1, 2]"]),
    (
        json.dumps({"problem": "?", "answer": "#### 1"}),
        ["line 2", "'question' is missing", "'problem', 'answer'"],
    ),
    (json.dumps({}), ["line 2", "'question' is missing", "found no keys"]),
    (json.dumps(GSM8K | {"question": 5}), ["line 2", "'question' should be text", "int (5)"]),
    (json.dumps(GSM8K | {"answer": None}), ["line 2", "'answer' should be text", "NoneType"]),
    (json.dumps(GSM8K | {"question": " \n"}), ["line 2", "'question' is blank"]),
    (json.dumps(GSM8K | {"answer": "72"}), ["line 2", "no '####'", "'72'"]),
    (json.dumps(GSM8K | {"answer": "so 72\n#### "}), ["line 2", "no '####' followed by the final result"]),
    ("[" * 100_000, ["line 2", "JSON"]),
    ('{"question": ' + "1" * 10_000 + "}", ["line 2", "JSON"]),
]


@pytest.mark.parametrize(("bad_line", "parts"), BAD_GSM8K)
def test_malformed_gsm8k(write, bad_line, parts):
    path = write(lines(GSM8K) + bad_line + "\n" + lines(GSM8K))
    with pytest.raises(LabError) as caught:
        read_gsm8k(path)
    for part in [str(path), *parts]:
        assert part in str(caught.value)
    assert len(str(caught.value)) < 600 + len(str(path))


BAD_MATH = [
    ({"question": "?", "answer": "1"}, ["'problem' is missing", "'question', 'answer'"]),
    ({"problem": "?"}, ["'answer' is missing", "found 'problem'"]),
    ({"problem": "?", "answer": 5}, ["'answer' should be text", "int (5)"]),
    ({"problem": "?", "answer": ""}, ["'answer' is blank"]),
    ({"problem": "\t", "answer": "1"}, ["'problem' is blank"]),
    ({"problem": "?", "solution": ["1"]}, ["'solution' should be text"]),
    ({"problem": "?", "solution": "it is \\boxed{1"}, ["no complete \\boxed{...}", "under a key 'answer'"]),
    ({"problem": "?", "solution": "it is \\boxed{ }"}, ["no complete \\boxed{...}"]),
]


@pytest.mark.parametrize(("record", "parts"), BAD_MATH)
def test_malformed_math(write, record, parts):
    path = write(lines(MATH, MATH, record))
    with pytest.raises(LabError) as caught:
        read_math(path)
    for part in [f"{path}, line 3", *parts]:
        assert part in str(caught.value)


BAD_FILES = [
    ("problems.jsonl", b"", "holds no records. Expected records with the keys 'question', 'answer'"),
    ("problems.jsonl", b"\n \n", "holds no records"),
    (
        "problems.jsonl",
        lines(GSM8K).encode() + b'{"question": "caf\xe9"}',
        "line 2: not UTF-8 text (byte 0xe9)",
    ),
    ("problems.json", json.dumps(GSM8K).encode(), "expected a JSON list of objects, found one dict"),
    ("problems.json", b"[]", "holds no records"),
    ("problems.json", b"[\n{},\n", "not JSON"),
    ("problems.json", json.dumps([GSM8K, "x"]).encode(), "record 2: expected an object"),
    ("problems.csv", b"question,answer\n", "holds no records"),
    ("problems.csv", b"question\nwhat?\n", "line 2: the key 'answer' is missing"),
    ("problems.csv", b"question,answer\nwhat?\n", "line 2: 'answer' should be text"),
    ("problems.parquet", b"not parquet", "could not be read as Parquet"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES)
def test_malformed_files(write, name, content, message):
    if name.endswith(".parquet"):
        pytest.importorskip("pandas")
    path = write(content, name)
    with pytest.raises(LabError) as caught:
        read_gsm8k(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["missing.jsonl", "missing.parquet"])
def test_missing_file(tmp_path, name):
    with pytest.raises(LabError, match="there is no such file"):
        read_gsm8k(tmp_path / name)


def test_folder_in_place_of_a_file(tmp_path):
    with pytest.raises(LabError, match="is a folder"):
        read_math(tmp_path)


class FakeHub:
    """Stands in for the ``datasets`` library: records what was asked for, gives fixed rows or an error."""

    def __init__(self, rows: list[dict] | None = None, error: Exception | None = None) -> None:
        self.rows, self.error, self.asked = rows, error, []

    def load_dataset(self, name: str, subset: str | None, *, split: str) -> list[dict]:
        self.asked.append((name, subset, split))
        if self.error:
            raise self.error
        return self.rows


@pytest.fixture(autouse=True)
def hub_answers(monkeypatch):
    monkeypatch.setattr("sppo_lab.hub.is_reachable", lambda name, kind: True)


def test_gsm8k_from_the_hub(monkeypatch):
    hub = FakeHub([GSM8K])
    monkeypatch.setitem(sys.modules, "datasets", hub)
    assert [problem.answer for problem in read_gsm8k(split="test")] == ["72"]
    assert hub.asked == [("openai/gsm8k", "main", "test")]


def test_math_from_the_hub(monkeypatch):
    hub = FakeHub([{"problem": "?", "solution": "\\boxed{1}"}])
    monkeypatch.setitem(sys.modules, "datasets", hub)
    assert len(read_math(split="train")) == len(MATH_SUBJECTS) == 7
    assert hub.asked == [("EleutherAI/hendrycks_math", subject, "train") for subject in MATH_SUBJECTS]
    hub.asked.clear()
    assert len(read_math(split="test")) == 1
    assert hub.asked == [("HuggingFaceH4/MATH-500", None, "test")]


@pytest.mark.parametrize("read", [read_gsm8k, read_math])
def test_hub_failure_names_the_remedy(monkeypatch, read):
    hub = FakeHub(error=ConnectionError("no route\nto host"))
    monkeypatch.setitem(sys.modules, "datasets", hub)
    with pytest.raises(LabError, match=r"ConnectionError: no route\).*--data FILE"):
        read()


def test_missing_datasets_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(LabError, match="--data FILE"):
        read_gsm8k()


def test_changed_hub_format_is_noticed(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", FakeHub([GSM8K, {"q": "?"}]))
    with pytest.raises(LabError, match=r"openai/gsm8k, train row 1: the key 'question' is missing"):
        read_gsm8k()


@pytest.mark.parametrize("read", [read_gsm8k, read_math])
def test_unknown_split(read):
    with pytest.raises(LabError, match="unknown split 'dev'; choose 'train' or 'test'"):
        read(split="dev")
