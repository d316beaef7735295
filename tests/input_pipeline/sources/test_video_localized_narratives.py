"""Video Localized Narratives: a video written by hand, and the real sample."""

import collections
import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from input_pipeline.errors import DataError
from input_pipeline.images import BadImage
from input_pipeline.sources.video_localized_narratives import VideoLocalizedNarratives

START = 1_646_807_046_669  # of the recording, ms since the epoch


def actor(name, caption, word_ms=1000, subject="dog", frame_of=lambda ms: 0):
    """A narrative of words of 1 s each with 100 ms between, a point every 100 ms.

    x of a point says when it was drawn (0.001 a second), y on which key-frame.
    """
    words, at = [], 0
    for number, word in enumerate(caption.replace(".", "").split()):
        at = caption.index(word, at)
        words.append(
            {
                "start_ms": number * word_ms,
                "end_ms": number * word_ms + word_ms - 100,
                "referenced_word": word,
                "referenced_word_start_idx": at,
                "referenced_word_end_idx": at + len(word),
            }
        )
    points = [
        {
            "x": ms / 1e6,
            "y": frame_of(ms) / 10,
            "time_ms_since_epoch": START + ms,
            "kf_idx": frame_of(ms),
        }
        for ms in range(0, word_ms * len(words), 100)
    ]
    first = caption.find(subject)
    return {
        "actor_name": name,
        "keyframe_selection_indices": sorted({p["kf_idx"] for p in points}),
        "recording_start_time_ms_since_epoch": START,
        "traces_start_time_ms_since_epoch": START - 404,
        "caption": caption,
        "noun_segments": [[first, first + len(subject)]],
        "recording_filename": "recordings/OVIS_train/0_0.webm",
        "time_alignment": words,
        "traces": [points[:7], points[7:]],
    }


def write(root, *actors, dataset="OVIS_train", extension="jpg", **changes):
    video = {
        "vidln_id": 12,
        "dataset_id": dataset,
        "video_id": "c1a4 0349",
        "annotator_id": 103,
        "keyframe_names": ["img_05", "img_12", "img_19"],
        "actor_narratives": list(actors),
        **changes,
    }
    (root / f"{dataset}.jsonl").write_text(json.dumps(video) + "\n")
    folder = root / dataset / "c1a4 0349"
    folder.mkdir(parents=True, exist_ok=True)
    for name in video["keyframe_names"]:
        Image.new("RGB", (16, 9)).save(folder / f"{name}.{extension}")
    return VideoLocalizedNarratives(root, root)


def read(source, split="train"):
    """({key-frame: {text: points}}, tally)."""
    tally = collections.Counter()
    records = [source.record(item, tally) for item in source.items(split, tally)]
    for record in records:
        assert record.image == (source.images / record.file_name).read_bytes()
        assert (record.width, record.height, record.coco_id) == (16, 9, None)
        assert {a.kind for a in record.annotations} == {"narration"}
    told = {r.file_name: {a.text: a.region.points for a in r.annotations} for r in records}
    return told, +tally


def drawn_at(points):
    """Tenths of a second."""
    return np.rint(points[:, 0] * 1e4).astype(int).tolist()


def test_sentences_are_told_of_the_keyframes_pointed_at(tmp_path):
    story = actor("Dog", "A dog runs. It barks.", frame_of=lambda ms: 0 if ms < 2500 else 2)
    back = actor("background", "The sky.", frame_of=lambda ms: 2)
    told, tally = read(write(tmp_path, story, back))
    first, last = (f"OVIS_train/c1a4 0349/img_{n}.jpg" for n in ("05", "19"))
    assert list(told) == [first, last]
    assert list(told[first]) == ["A dog runs"]
    assert list(told[last]) == ["A dog runs", "It barks", "The sky"]
    # Words last 0.9 s; between them nothing is said, but a point at their end counts.
    assert drawn_at(told[first]["A dog runs"]) == list(range(25))
    assert drawn_at(told[last]["A dog runs"]) == list(range(25, 30))
    assert drawn_at(told[last]["It barks"]) == list(range(30, 50))
    assert (told[last]["A dog runs"][:, 1] == np.float32(0.2)).all()
    assert tally == {"keyframes_without_narration": 1}


def test_times_count_from_the_recording(tmp_path):
    story = actor("Dog", "A dog runs.")
    for word in story["time_alignment"]:
        word["start_ms"] += 200
        word["end_ms"] += 200
    story["traces"] = story["traces"][::-1]  # not in the order of time
    told, _ = read(write(tmp_path, story))
    (points,) = told["OVIS_train/c1a4 0349/img_05.jpg"].values()
    assert drawn_at(points) == [2, *range(3, 12), *range(12, 22), *range(22, 30)]


def test_what_cannot_be_used_is_counted(tmp_path):
    story = actor("Dog", "A dog. It. Fin. Out.")
    a, dog, it, _, out = story["time_alignment"]
    dog.update(referenced_word_start_idx=3)
    a.update(end_ms=a["start_ms"])
    it.update(start_ms=90_000, end_ms=91_000)
    for point in story["traces"][1][33:]:
        point["x"] = -0.01
    assert out["start_ms"] == 4000
    silent = {**actor("Cat", "A cat."), "traces": []}
    told, tally = read(write(tmp_path, story, silent))
    assert list(told["OVIS_train/c1a4 0349/img_05.jpg"]) == ["Fin"]
    assert tally == {
        "utterances_not_in_caption": 1,
        "utterances_without_time": 1,
        "sentences_without_trace": 3,
        "sentences_drawn_outside": 1,
        "points_outside_image": 10,
        "keyframes_without_narration": 2,
    }


def test_files_and_extensions(tmp_path):
    write(tmp_path, actor("Dog", "A dog."), dataset="UVO_sparse_val", extension="png")
    source = write(tmp_path, actor("Dog", "A dog."), dataset="oops_val", extension="jpg")
    assert [path.name for path in source.files("val")] == ["UVO_sparse_val.jsonl", "oops_val.jsonl"]
    told, _ = read(dataclasses.replace(source, dataset="UVO_sparse"), "val")
    assert list(told) == ["UVO_sparse_val/c1a4 0349/img_05.png"]
    with pytest.raises(BadImage, match="img_05.png: No such file"):
        read(source, "val")
    told, _ = read(dataclasses.replace(source, dataset="oops", extension="jpg"), "val")
    assert list(told) == ["oops_val/c1a4 0349/img_05.jpg"]
    with pytest.raises(DataError, match="nothing for oops train; did you mean `oops val`"):
        dataclasses.replace(source, dataset="oops").files("train")
    with pytest.raises(DataError, match="extension=jpeg is not known; did you mean `jpg`"):
        dataclasses.replace(source, extension="jpeg")
    with pytest.raises(DataError, match="sentences=papr is not known; did you mean `paper`"):
        dataclasses.replace(source, sentences="papr")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("caption"), "line 1, actor 0 has no `caption`"),
        (lambda v: v["time_alignment"][0].update(start_ms=None), "`start_ms` is a NoneType"),
        (lambda v: v["traces"][0][0].pop("kf_idx"), "point without numbers x, y, .*'kf_idx'"),
        (lambda v: v["traces"][0][0].update(kf_idx=3), "key-frame 3 of 3"),
        (lambda v: v["traces"][0][3].update(x=300.0), "narration 12/0/0: point 3 .*outside"),
    ],
)
def test_errors_name_the_place(tmp_path, change, message):
    story = actor("Dog", "A dog runs.")
    change(story)
    with pytest.raises(DataError, match=message):
        read(write(tmp_path, story))


# ---- as RegionVLM ----


def regionvlm(video):
    """The preparation as it is described, with lists: [(key-frame, caption, 20 points)]."""
    found = []
    for story in video["actor_narratives"][:-1]:
        begin, end = story["noun_segments"][0]
        subject = story["caption"][begin:end]
        if subject.lower() == "group":
            continue
        words = []
        until = "is" if " is " in story["caption"] else subject.split(" ")[-1]
        for word in story["time_alignment"]:
            words.append(word)
            if word["referenced_word"] == until:
                words.append(word)
                break
        zero = story["traces"][0][0]["time_ms_since_epoch"]
        frames = {}
        for word in words:
            for segment in story["traces"]:
                for point in segment:
                    if word["start_ms"] <= point["time_ms_since_epoch"] - zero <= word["end_ms"]:
                        frames.setdefault(point["kf_idx"], []).append([point["x"], point["y"]])
        for frame, points in frames.items():
            few = [points[int((len(points) - 1) / 19 * (j - 1))] for j in range(1, 21)]
            found.append((frame, story["caption"], few))
    return sorted(found, key=lambda entry: entry[0])


def test_paper_takes_the_words_until_is(tmp_path):
    stories = [
        actor("Dog", "A dog is running. It barks.", frame_of=lambda ms: ms // 1500 % 3),
        actor("Dogs", "A group of dogs is running.", subject="group"),
        actor("Cat", "The cat sleeps.", subject="cat"),
        actor("background", "The sky is blue."),
    ]
    source = dataclasses.replace(write(tmp_path, *stories), sentences="paper")
    told, tally = read(source)
    first, second = (f"OVIS_train/c1a4 0349/img_{n}.jpg" for n in ("05", "12"))
    assert {name: list(texts) for name, texts in told.items()} == {
        first: ["A dog is running. It barks.", "The cat sleeps."],
        second: ["A dog is running. It barks."],
    }
    dog = drawn_at(told[first]["A dog is running. It barks."])
    assert dog == sorted(dog) and set(dog) == set(range(15))  # the first half of "dog"
    dog = drawn_at(told[second]["A dog is running. It barks."])
    # The rest of "dog" (5 points), and "is" (10 points), twice: 25, of which every 24/19th.
    every = [*range(15, 20), *range(20, 30), *range(20, 30)]
    assert dog == [every[j * 24 // 19] for j in range(20)]
    assert set(drawn_at(told[first]["The cat sleeps."])) <= set(range(20))
    assert tally == {
        "background_actors": 1,
        "group_actors": 1,
        "keyframes_without_narration": 1,
    }


def test_paper_without_subject_or_trace(tmp_path):
    stories = [
        {**actor("Dog", "A dog is here."), "noun_segments": []},
        {**actor("Dog", "A dog is here."), "traces": []},
        actor("background", "The sky is blue."),
    ]
    told, tally = read(dataclasses.replace(write(tmp_path, *stories), sentences="paper"))
    assert told == {}
    assert tally == {
        "actors_without_subject": 1,
        "sentences_without_trace": 1,
        "background_actors": 1,
        "keyframes_without_narration": 3,
    }


# ---- the real sample ----


@pytest.fixture
def real(shared_data, tmp_path):
    """(source with blank key-frames, videos)."""
    source = VideoLocalizedNarratives(shared_data / "video_localized_narratives", tmp_path)
    videos = [json.loads(x) for path in source.files("train") for x in path.open()]
    for video in videos:
        folder = tmp_path / video["dataset_id"] / video["video_id"]
        folder.mkdir(parents=True)
        for name in video["keyframe_names"]:
            extension = "jpg" if video["dataset_id"] == "OVIS_train" else "png"
            Image.new("RGB", (16, 9)).save(folder / f"{name}.{extension}")
    return source, videos


def test_real_videos(real):
    source, videos = real
    told, tally = read(source)
    sentences, silent = 0, 0
    for video in videos:
        for story in video["actor_narratives"]:
            start = story["recording_start_time_ms_since_epoch"]
            points = sorted(
                (p for segment in story["traces"] for p in segment),
                key=lambda p: p["time_ms_since_epoch"],
            )
            closing = story["caption"].index(".")
            for part in range(story["caption"].count(".")):
                words = [
                    word
                    for word in story["time_alignment"]
                    if (word["referenced_word_start_idx"] > closing) == part
                ]
                text = story["caption"].split(".")[part].strip()
                before = sentences
                for frame in story["keyframe_selection_indices"]:
                    expected = [
                        (p["x"], p["y"])
                        for p in points
                        if p["kf_idx"] == frame
                        and any(
                            w["start_ms"] <= p["time_ms_since_epoch"] - start <= w["end_ms"]
                            for w in words
                        )
                    ]
                    extension = "jpg" if video["dataset_id"] == "OVIS_train" else "png"
                    name = f"{video['video_id']}/{video['keyframe_names'][frame]}.{extension}"
                    found = told.get(f"{video['dataset_id']}/{name}", {}).get(text, [])
                    assert len(found) == len(expected)
                    if expected:
                        np.testing.assert_array_equal(found, np.float32(expected))
                        sentences += 1
                silent += sentences == before
    assert sentences == sum(len(texts) for texts in told.values()) > 40
    unused = sum(len(video["keyframe_names"]) for video in videos) - len(told)
    assert tally == {"sentences_without_trace": silent, "keyframes_without_narration": unused}


def test_real_videos_as_regionvlm(real):
    source, videos = real
    told, tally = read(dataclasses.replace(source, sentences="paper"))
    compared = 0
    for video in videos:
        for frame, caption, points in regionvlm(video):
            extension = "jpg" if video["dataset_id"] == "OVIS_train" else "png"
            name = f"{video['video_id']}/{video['keyframe_names'][frame]}.{extension}"
            found = told[f"{video['dataset_id']}/{name}"].pop(caption)
            np.testing.assert_array_equal(found, np.float32(points))
            compared += 1
    assert compared > 20 and not any(told.values())
    assert tally["background_actors"] == 6
