import pytest

from sppo_lab.errors import LabError
from sppo_lab.storage import append_rows, read_json, read_rows, write_json, write_rows, write_text


def test_rows_survive_a_kill_in_mid_write(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_rows(path, [{"step": 1}, {"step": 2}])
    with path.open("a") as file:
        file.write('{"step": 3')
    assert read_rows(path) == [{"step": 1}, {"step": 2}]
    write_rows(path, read_rows(path))
    append_rows(path, [{"step": 3}])
    assert [row["step"] for row in read_rows(path)] == [1, 2, 3]
    assert read_rows(tmp_path / "absent.jsonl") == []


@pytest.mark.parametrize("line", ["{", "[]", "1", "null", "\ufffd"])
def test_a_line_that_is_no_object_is_named(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n', encoding="utf-8")
    with pytest.raises(LabError, match=r"rows.jsonl, line 2 is damaged"):
        read_rows(path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_json(path, {"old": 1})

    def fail(*_):
        raise OSError("no more room")

    monkeypatch.setattr("sppo_lab.storage.sync", fail)
    with pytest.raises(OSError, match="no more room"):
        write_text(path, "half of the new")
    assert read_json(path) == {"old": 1}
