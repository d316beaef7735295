"""Entries of JSON files read piece by piece, against the standard library's whole reading."""

import gzip
import json

import pytest

from input_pipeline.errors import DataError
from input_pipeline.sources import json_entries
from input_pipeline.sources.json_entries import Places, entries_of, list_entries, member_entries

ENTRIES = [
    {"id": 1, "text": 'naïve café 🎉 \\ "quoted" ]}', "deep": [[1.5, -2e3], {"a": None}]},
    {},
    "a text, [not] {a} list",
    -12,
    [],
    {"id": 2, "escaped": "🎉 é"},
    123456789,
]


@pytest.fixture(params=[1, 2, 7, 1 << 20])
def chunk(request, monkeypatch):
    monkeypatch.setattr(json_entries, "_CHUNK", request.param)


@pytest.mark.parametrize("style", [{}, {"indent": 1, "ensure_ascii": False}])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_everything_is_read_and_read_again(tmp_path, chunk, style, start):
    path = tmp_path / "file.json"
    path.write_bytes(start + json.dumps(ENTRIES, **style).encode() + b"\n")
    found = list(list_entries(path))
    assert [entry for entry, _ in found] == ENTRIES
    data = path.read_bytes()
    assert [json.loads(data[slice(*place)]) for _, place in found] == ENTRIES

    members = {f"é{number}": entry for number, entry in enumerate(ENTRIES)}
    path.write_bytes(start + json.dumps(members, **style).encode())
    assert {name: entry for name, entry, _ in member_entries(path)} == members

    content = {"info": {"a": [1]}, "b": ENTRIES, "none": [], "n": 12, "skipped": [[]], "a": [7, 8]}
    path.write_bytes(start + json.dumps(content, **style).encode())
    places = Places(path)
    for key, entry, place in entries_of(path, ["a", "b", "none"]):
        places.add((key, isinstance(entry, dict)), place)
    assert list(places) == [("b", True), ("b", False), ("a", False)]
    assert places.read(("b", True)) == [e for e in ENTRIES if isinstance(e, dict)]
    assert places.read(("b", False)) == [e for e in ENTRIES if not isinstance(e, dict)]
    assert places.read(("a", False)) == [7, 8] and places.read("nobody") == []


@pytest.mark.parametrize(
    "text",
    [
        '[1,\n {"a": 1,}]',
        "[1 2]",
        '[1, "abc',
        "[1,\n\n  2",
        '[{"a" 1}]',
        "[1] 2",
        "[nul]",
        "nul",
        "",
    ],
)
def test_broken_files_are_placed_as_the_standard_library_places_them(tmp_path, chunk, text):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(json.JSONDecodeError) as expected:
        json.loads(text)
    with pytest.raises(DataError) as found:
        list(list_entries(path))
    if text:
        place = f"line {expected.value.lineno}, column {expected.value.colno}: not JSON"
        assert f"{path}, {place}" in str(found.value)


@pytest.mark.parametrize("text", ['{"a": [1, 2}', '{"a" [1]}', '{"a": [], b: 1}', '{"a": [1]} x'])
def test_broken_objects(tmp_path, chunk, text):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(json.JSONDecodeError) as expected:
        json.loads(text)
    with pytest.raises(DataError, match=f"line 1, column {expected.value.colno}: not JSON"):
        list(entries_of(path, ["a"]))


def test_a_mistake_at_the_beginning_is_not_looked_for_at_the_end(tmp_path, monkeypatch):
    """Nor is the rest of the file, which may be larger than memory, read for it."""
    path = tmp_path / "file.json"
    path.write_text('[{"a": 1}, {"a" 2},\n' + '{"a": 3},\n' * 300_000 + "{}]")
    sizes = []
    more = json_entries._Text._more

    def read(text):
        found = more(text)
        sizes.append(len(text._text))
        return found

    monkeypatch.setattr(json_entries._Text, "_more", read)
    with pytest.raises(DataError, match="line 1, column 17: not JSON: Expecting ':' delimiter"):
        list(list_entries(path))
    assert path.stat().st_size > 2 * max(sizes)


def test_other_errors(tmp_path):
    (tmp_path / "x.json").write_bytes(gzip.compress(b"[]"))
    with pytest.raises(DataError, match=r"x.json is compressed \(gzip\): unpack it"):
        list(list_entries(tmp_path / "x.json"))
    path = tmp_path / "file.json"
    path.write_text('{"anotations": [1], "images": {}}')
    with pytest.raises(DataError, match="no list `annotations`; did you mean `anotations`"):
        list(entries_of(path, ["annotations"]))
    with pytest.raises(DataError, match="no list `images`"):
        list(entries_of(path, ["images"]))
    with pytest.raises(DataError, match="does not hold a list"):
        list(list_entries(path))
    path.write_bytes(b'["abc", "\xff"]')
    with pytest.raises(DataError, match="near byte 9: not JSON: invalid start byte"):
        list(list_entries(path))
    with pytest.raises(DataError, match="no file .*files.json; did you mean `file.json`"):
        list(list_entries(tmp_path / "files.json"))
