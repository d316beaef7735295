"""The command `python -m input_pipeline.prepare`: its forms, what it says, and its page."""

import concurrent.futures.process
import fcntl
import html.parser
import json
import logging
import pathlib
import re
import threading

import numpy as np
import pytest
from PIL import Image

from input_pipeline import prepare, shards
from input_pipeline.parts import find_parts, open_records
from input_pipeline.plan import Plan, options_of
from input_pipeline.sources import SOURCES, open_source
from regionjax import journal


@pytest.fixture
def command(capsys):
    """Runs the command with arguments of any type; returns (exit code, stdout, stderr)."""

    def run(*arguments):
        code = 0
        try:
            prepare.main([str(argument) for argument in arguments])
        except SystemExit as error:
            code = error.code or 0
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def places(own_folder):
    """The files of the narratives, wherever they are."""
    return "--annotations", own_folder / "localized_narratives", "--images", own_folder


def test_several_sources_below_a_root(command, own_folder, tmp_path):
    arguments = ["coco", "refer", "--root", own_folder, "--processes", 1]
    code, _, error = command(*arguments)
    assert code == 2 and "--out is needed" in error
    arguments += ["--out", tmp_path / "out"]
    code, _, error = command(*arguments)
    assert code == 1 and "instances_val2017.json" in error
    code, shown, _ = command(*arguments, "--split", "train")
    assert code == 0 and 'refer-train: {"records": 3' in shown
    assert find_parts([tmp_path / "out"]).keys() == {"coco", "refer"}


def test_one_source_from_anywhere(command, places, tmp_path):
    out = "--out", tmp_path / "out", "--processes", 1
    code, *_ = command("localized_narratives", *places, *out, "--split", "train")
    assert code == 0
    more = "--name", "paper", "--set", "sentences=paper", "--split", "train"
    assert command("localized_narratives", *places, *out, *more)[0] == 0
    found = find_parts([tmp_path / "out"])
    assert found.keys() == {"localized_narratives", "paper"}
    options = [found[name]["train"].facts["inputs"]["options"]["sentences"] for name in found]
    assert options == ["true", "paper"]
    assert found["paper"]["train"].facts["source"] == "localized_narratives"


def test_the_built_in_world(command, tmp_path):
    world = "world", "coco", "refer", "--root", tmp_path / "world", "--out", tmp_path / "out"
    code, shown, _ = command(*world, "--train", 3, "--val", 2, "--test", 0, "--processes", 1)
    assert code == 0 and 'coco-val: {"records": 2' in shown
    assert open_records(tmp_path / "out", "refer", "val")[0].proposals
    assert not open_records(tmp_path / "out", "refer", "train")[0].proposals


def test_proposals_from_a_folder(command, own_folder, tmp_path):
    proposals = {"size": [96, 96], "counts": "PQ`0"}  # all 9216 pixels
    entries = [{"image_id": 2, "segmentation": proposals}]
    path = own_folder / "proposals_train2017.json"
    path.write_text(json.dumps(entries))
    annotations = "--annotations", own_folder / "annotations", "--images", own_folder
    shown = "--split", "train", "--proposals", own_folder, "--processes", 1
    code, _, error = command("coco", *annotations, "--out", tmp_path / "out", *shown)
    assert code == 1 and "proposal" in error  # run lengths of another size
    zeros_and_ones = {"size": [96, 96], "counts": [0, 9216]}
    path.write_text(json.dumps([{"image_id": 2, "segmentation": zeros_and_ones}]))
    assert command("coco", *annotations, "--out", tmp_path / "out", *shown)[0] == 0
    records = open_records(tmp_path / "out", "coco", "train")
    assert [len(record.proposals) for record in records] == [0, 1, 0]
    path.unlink()
    code, _, error = command("coco", *annotations, "--out", tmp_path / "out", *shown)
    assert code == 1 and "proposals_train2017.json" in error


def test_proposals_of_segment_anything_and_of_the_pixels(command, own_folder, tmp_path):
    """Masks by the names of the images; an image without any is counted."""
    masks = tmp_path / "masks" / f"{2:012d}"
    masks.mkdir(parents=True)
    (masks / "metadata.csv").write_text("id,area\n0,12\n")
    for number, side in ((0, 5), (1, 7)):
        mask = np.zeros((96, 96), np.uint8)
        mask[:side, :side] = 255
        Image.fromarray(mask).save(masks / f"{number}.png")
    places = "--annotations", own_folder / "annotations", "--images", own_folder
    shared = "--split", "train", "--processes", 1
    made = "--out", tmp_path / "out", "--proposals", tmp_path / "masks"
    assert command("coco", *places, *shared, *made)[0] == 0
    records = open_records(tmp_path / "out", "coco", "train")
    found = [[proposal.area() * 96**2 for proposal in record.proposals] for record in records]
    assert found == [[], [pytest.approx(25), pytest.approx(49)], []]
    facts = find_parts([tmp_path / "out"])["coco"]["train"].facts
    assert facts["noticed"] == {"images_without_proposals": 2} and not facts["left_out"]
    mask[:] = 255
    Image.fromarray(mask).save(masks / "1.png")
    code, _, error = command("coco", *places, *shared, *made)
    assert code == 1 and "proposals masks" in error  # made of other masks
    auto = "--root", own_folder, "--out", tmp_path / "auto", "--proposals", "auto"
    assert command("coco", *shared, *auto)[0] == 0
    records = open_records(tmp_path / "auto", "coco", "train")
    assert all(len(record.proposals) > 3 for record in records)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a source"),
        (["coco"], "needs --annotations and --images"),
        (["coco", "refer", "--annotations", "a", "--images", "i"], "several, or `world`, --root"),
        (["coco", "--root", "r", "--images", "i"], "--root is for the usual layout"),
        (["coco", "refer", "--root", "r", "--name", "n"], "--name is the name of one source"),
        (
            ["coco", "--root", "r", "--proposals", "p"],
            "in annotations/; only `auto`",
        ),
    ],
)
def test_forms_that_cannot_be(command, arguments, message):
    code, _, error = command(*arguments)
    assert code == 2 and message in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["coca"], "coca is not a source; did you mean `coco`"),
        (["localized_narratives", "--set", "sentences"], "expected option=value"),
        (["localized_narratives", "--set", "sentence=x"], "has no option .*mean `sentences`"),
        (["localized_narratives", "--name", "a-b"], "--name 'a-b': letters, digits"),
        (["localized_narratives", "--exclude_images", "no.txt"], "no.txt, a list of photographs"),
        (["localized_narratives", "--annotations", "/no"], "no file or folder /no"),
    ],
)
def test_values_that_cannot_be(command, places, arguments, message):
    name, *rest = arguments
    code, _, error = command(name, *places, "--out", "unused", "--split", "train", *rest)
    assert code == 1 and re.search(message, error)


def test_all_annotations_are_looked_for_before_the_first_part(command, own_folder, tmp_path):
    where = "--root", own_folder, "--out", tmp_path / "out", "--processes", 1
    code, _, error = command("coco", *where)
    assert code == 1 and "no file" in error and "instances_val2017.json" in error
    assert not (tmp_path / "out").exists()


def test_a_second_command_says_that_it_waits(command, own_folder, tmp_path):
    where = "--root", own_folder, "--out", tmp_path / "out", "--processes", 1, "--split", "train"
    (tmp_path / "out").mkdir()
    with (tmp_path / "out/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        said = []
        told = threading.Event()
        handler = logging.Handler()
        handler.emit = lambda record: (said.append(record.getMessage()), told.set())
        journal.log.addHandler(handler)
        second = threading.Thread(target=command, args=("coco", *where))
        second.start()
        try:
            assert told.wait(30) and second.is_alive()
            assert not (tmp_path / "out/dataset.json").exists()
        finally:
            journal.log.removeHandler(handler)
            fcntl.flock(lock, fcntl.LOCK_UN)
            second.join(60)
    assert said == [f"another process prepares {tmp_path / 'out'}; waiting until it is done"]
    assert (tmp_path / "out/dataset.json").exists()


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_an_error_in_words(command, own_folder, tmp_path, monkeypatch):
    where = "--root", own_folder, "--out", tmp_path / "out", "--processes", 1, "--split", "train"
    (tmp_path / "out/records").mkdir(parents=True)
    part = tmp_path / "out/records/coco-train-00000.array_record.part"
    monkeypatch.setattr(shards, "_begin", lambda key, directory, inputs: directory / "begun")
    part.symlink_to("/dev/full")
    code, _, error = command("coco", *where)
    assert code == 1 and error.rstrip().splitlines()[-1].startswith(f"{part} cannot be written: ")
    assert "No space left on device" in error
    part.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_json", lambda *_: pathlib.Path("/dev/full").write_text("x"))
        code, _, error = command("coco", *where)
    assert code == 1 and error.endswith(f"{tmp_path / 'out'}: No space left on device\n")
    (tmp_path / "file").write_text("")
    code, _, error = command("coco", *where, "--out", tmp_path / "file")
    assert code == 1 and error.startswith("[Errno ") and str(tmp_path / "file") in error


def test_a_worker_that_is_ended_is_an_error_in_words(command, own_folder, tmp_path, monkeypatch):
    def killed(*_):
        raise concurrent.futures.process.BrokenProcessPool("terminated abruptly")
        yield

    monkeypatch.setattr(shards, "FEW", 1)
    monkeypatch.setattr(shards.Workers, "_in_parallel", killed)
    where = "--root", own_folder, "--out", tmp_path / "out", "--split", "train"
    code, _, error = command("coco", *where, "--processes", 2)
    assert code == 1 and "was ended from outside" in error


def test_many_files_of_a_folder_are_one_entry(command, own_folder, tmp_path):
    """As Flickr30k Entities has two for each of 30,000 images."""
    ids = [str(number) for number in range(30)]
    annotations = tmp_path / "flickr"
    for folder in ("Sentences", "Annotations"):
        (annotations / folder).mkdir(parents=True)
        for name in ids:
            (annotations / folder / f"{name}.txt").write_text(name)
            (annotations / folder / f"{name}.xml").write_text(name)
    (annotations / "train.txt").write_text("\n".join(ids))
    plan = Plan("f", "train", open_source("flickr30k_entities", annotations, own_folder))
    before = plan.inputs()["files"]
    assert before.keys() == {"train.txt", "Sentences/ (30 files)", "Annotations/ (30 files)"}
    (annotations / "Annotations/17.xml").write_text("x")
    after = plan.inputs()["files"]
    assert {name for name in after if after[name] != before[name]} == {"Annotations/ (30 files)"}
    where = "--annotations", annotations, "--images", own_folder, "--split", "train", "--dry_run"
    code, shown, error = command("flickr30k_entities", *where)
    assert "reads Sentences/ (30 files) (50 bytes)" in shown and shown.count("reads") == 4
    assert code == 1 and "not XML" in error


def test_dry_run_writes_nothing(command, own_folder, tmp_path):
    (own_folder / "train2017/000000000002.jpg").write_bytes(b"no picture")
    (tmp_path / "list.txt").write_text("3\n")
    before = {path: path.stat().st_mtime_ns for path in own_folder.rglob("*")}
    arguments = "--root", own_folder, "--out", tmp_path / "out", "--split", "train"
    listed = "--exclude_images", tmp_path / "list.txt"
    code, shown, _ = command("coco", *arguments, *listed, "--dry_run")
    assert code == 0 and not (tmp_path / "out").exists()
    assert {path: path.stat().st_mtime_ns for path in own_folder.rglob("*")} == before
    size = (own_folder / "annotations/instances_train2017.json").stat().st_size
    assert f"instances_train2017.json ({size:,} bytes)" in shown
    assert "records: 2; left out on the way: {'excluded_images': 1}" in shown
    # Image 1 has a red box and two blue ones, of which only the red one has no twin.
    assert "000000000001.jpg, 96x96: 3 phrase, 1 expression, 1 caption" in shown
    assert re.search(r"phrase: 'red box' \(mask in \[0\.0\d+ 0\.\d+ 0\.\d+ 0\.\d+\]\)", shown)
    assert "caption: '2 blue on noise' (whole image)" in shown
    assert re.search(r"000000000002.jpg \(10 bytes\): .* \(stop\)", shown)


def test_dry_run_of_a_world_that_is_not_there(command, tmp_path):
    code, shown, _ = command("world", "coco", "--root", tmp_path / "world", "--dry_run")
    assert code == 0 and "would write the built-in world" in shown
    assert not (tmp_path / "world").exists()


class _Page(html.parser.HTMLParser):
    """Counts the elements of a page by name and class, and keeps what it points at."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.addresses, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes.get("class", "")))
        self.addresses += [attributes[key] for key in ("href", "src") if key in attributes]

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_shows_what_is_annotated(command, folder, tmp_path):
    where = "--root", folder, "--split", "train", "--dry_run"
    assert command("coco", *where, "--preview", tmp_path / "page.html")[0] == 0
    page = _Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert page.elements.count(("section", "record")) == 10
    things = sum(2 + number % 2 for number in range(1, 11))
    assert sum(name == "path" and "shape" in kind for name, kind in page.elements) == things
    assert all(address.startswith(("data:image/jpeg;base64,", "#")) for address in page.addresses)
    assert page.text.count("red box") == 10 and page.text.count("phrase, expression") == 15
    places = "--annotations", folder / "localized_narratives", "--images", folder
    told = "--split", "train", "--dry_run", "--preview", tmp_path / "told.html"
    assert command("localized_narratives", *places, *told)[0] == 0
    page = _Page((tmp_path / "told.html").read_text(encoding="utf-8"))
    lines = [kind for name, kind in page.elements if name == "polyline" and "shape" in kind]
    assert lines == ["shape region-0", "shape region-1"] * 10


def test_help_lists_and_describes_every_source(command):
    code, shown, _ = command("--help")
    assert code == 0
    for name in SOURCES:
        assert re.search(rf"^  {re.escape(name)} +[A-Z].{{15,}}$", shown, re.MULTILINE), name
        code, described, _ = command("--describe", name)
        assert code == 0 and "IMAGES" in described and "Licence: " in described
        for option in options_of(prepare._source(name)):
            assert f"--set {option}=" in described
    code, _, error = command("--describe", "cocoa")
    assert code == 1 and "did you mean `coco`" in error
