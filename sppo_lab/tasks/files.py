"""Reading tables of text from files, with errors that name the file and the line."""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sppo_lab.errors import LabError


@dataclass(frozen=True)
class Row:
    """One record and the place it came from, such as ``problems.jsonl, line 3``, for error messages."""

    where: str
    fields: dict[str, Any]


def read_rows(path: str | Path, required: tuple[str, ...]) -> list[Row]:
    """Records of a ``.jsonl``, ``.json`` (a list), ``.csv`` or ``.parquet`` file; by default JSONL.

    Every record has text under each of the ``required`` keys; other keys are kept as they are.  Raises
    LabError if the file cannot be read, holds no record, or holds one that is not like that.
    """
    path = Path(path)
    readers = {".json": _json_records, ".csv": _csv_records, ".parquet": _parquet_records}
    return _checked(path, readers.get(path.suffix.lower(), _jsonl_records)(path), required)


def read_jsonl(path: str | Path, required: tuple[str, ...]) -> list[Row]:
    """Records of a file with one JSON object per line, whatever its name.  Blank lines are skipped.

    Checks and errors are those of ``read_rows``.
    """
    path = Path(path)
    return _checked(path, _jsonl_records(path), required)


def require_text(row: Row, required: Iterable[str]) -> None:
    """Raise LabError unless ``row`` has text under each ``required`` key.  Blank text is text."""
    if not isinstance(row.fields, dict):
        keys = f" with the keys {_listed(required)}" if required else ""
        raise LabError(f"{row.where}: expected an object{keys}, found {row.fields!r:.80}.")
    for key in required:
        if key not in row.fields:
            raise LabError(
                f"{row.where}: the key '{key}' is missing. Expected {_listed(required)}; found "
                f"{_listed(row.fields) or 'no keys'}. Rename the keys or add the missing one."
            )
        if not isinstance(row.fields[key], str):
            value = row.fields[key]
            raise LabError(
                f"{row.where}: '{key}' should be text and is {type(value).__name__} ({value!r:.60}). "
                "Put it in double quotes."
            )


def require_filled(row: Row, key: str) -> None:
    """Raise LabError if the text under ``key`` is blank."""
    if not row.fields[key].strip():
        raise LabError(f"{row.where}: '{key}' is blank. Fill it in or delete the record.")


def _checked(path: Path, records: Iterable[Row], required: tuple[str, ...]) -> list[Row]:
    rows = []
    for row in records:
        require_text(row, required)
        rows.append(row)
    if not rows:
        expected = f" Expected records with the keys {_listed(required)}." if required else " Expected at least one."
        raise LabError(f"{path}: the file holds no records.{expected}")
    return rows


def _jsonl_records(path: Path) -> Iterator[Row]:
    # Not splitlines(): a JSON string may hold other line separators, such as U+2028.
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            yield Row(where, _parse_json(line, where, "each line should be one JSON object"))


def _json_records(path: Path) -> Iterator[Row]:
    records = _parse_json(_read_text(path), str(path), "expected a JSON list of objects")
    if not isinstance(records, list):
        raise LabError(
            f"{path}: expected a JSON list of objects, found one {type(records).__name__}. If the file has "
            "one object per line, give it the ending .jsonl."
        )
    for number, record in enumerate(records, start=1):
        yield Row(f"{path}, record {number}", record)


def _csv_records(path: Path) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(_read_text(path), newline=""), restkey="(beyond the last column)")
    try:
        for record in reader:
            yield Row(f"{path}, line {reader.line_num}", record)
    except csv.Error as error:
        raise LabError(f"{path}, line {reader.line_num}: not valid CSV ({error}).") from None


def _parquet_records(path: Path) -> Iterator[Row]:
    _require_file(path)
    try:
        import pandas

        records = pandas.read_parquet(path).to_dict("records")
    except Exception as error:  # pandas and its engines raise many kinds
        raise LabError(
            f"{path}: could not be read as Parquet ({error}). Check the file, or save it as .jsonl."
        ) from None
    for number, record in enumerate(records, start=1):
        yield Row(f"{path}, record {number}", record)


def _read_text(path: Path) -> str:
    _require_file(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LabError(f"{path}: could not be read ({error.strerror}). Check its permissions.") from None
    try:
        return data.decode("utf-8-sig")  # with or without the mark that Windows editors put first
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise LabError(
            f"{path}, line {line}: not UTF-8 text (byte {data[error.start]:#04x}). Save the file as UTF-8; a "
            "compressed file must be unpacked first."
        ) from None


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise LabError(f"{path} is a folder; give the path of a file in it.")
    if not path.is_file():
        raise LabError(f"{path}: there is no such file. Paths are taken from {Path.cwd()}.")


def _parse_json(text: str, where: str, expected: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        spot = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        raise LabError(f"{where}: not JSON ({error.msg}, at {spot}); {expected}.") from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits; a list nested 10,000 deep
        raise LabError(f"{where}: JSON that cannot be read ({error}); {expected}.") from None


def _listed(keys: Iterable[str]) -> str:
    return ", ".join(f"'{key}'" for key in keys)
