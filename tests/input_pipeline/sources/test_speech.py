"""Words, traces and sentences: alignment at true sentence ends, parity with RegionVLM's."""

import collections
import json
import random

import numpy as np
import pytest
from data_folder import narrative

from input_pipeline.sources.localized_narratives import narrations
from input_pipeline.sources.speech import sentence_spans


def told(words, caption=None, traces=None, sentences="true"):
    """narrations() of timed words [(utterance, start, end)] with a point every 0.1 s.

    Returns {text: tenths of a second of its points}, tally.
    """
    points = [{"x": 0.1, "y": t / 100, "t": t / 10} for t in range(100)]
    content = {
        "caption": " ".join(w for w, _, _ in words) if caption is None else caption,
        "timed_caption": [{"utterance": w, "start_time": s, "end_time": e} for w, s, e in words],
        "traces": [points] if traces is None else traces,
    }
    tally = collections.Counter()
    found = narrations(content, "here", tally, sentences)
    times = [np.rint(a.region.points[:, 1] * 100).astype(int).tolist() for a in found]
    return {a.text: t for a, t in zip(found, times, strict=True)}, +tally


# ---- sentences at true ends ----


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("A cat. A dog.", ["A cat", "A dog"]),
        (" A cat,  and a dog ", ["A cat,  and a dog"]),
        (
            "It is 3.5 m long, e.g. a car. Dr. No? Yes!!",
            ["It is 3.5 m long, e.g. a car", "Dr. No", "Yes"],
        ),
        ("One... two. .", ["One", "two"]),
        ("", []),
    ],
)
def test_sentences_end_where_they_end(text, sentences):
    assert [text[start:end] for start, end, _ in sentence_spans(text)] == sentences


def test_utterances_of_several_words_share_their_time():
    found, _ = told([("a cat.", 0.0, 0.6), ("A dog sits. No", 2.0, 3.45)])
    assert found == {
        "a cat": [0, 1, 2, 3, 4, 5, 6],
        "A dog sits": list(range(20, 32)),  # 11 of 14 characters
        "No": [33, 34],
    }


def test_utterances_without_time_point_at_nothing():
    found, tally = told([("cat.", 0.0, 0.0), ("Dog.", 1.0, 1.2), ("Cow.", 0.0, 0.0)])
    assert list(found) == ["Dog"]
    assert tally == {"utterances_without_time": 2, "sentences_without_trace": 2}


def test_words_that_the_caption_lacks_do_not_shift_the_rest():
    words = [("There", 0.0, 0.1), ("uhm", 0.2, 0.3), ("cat.", 1.0, 1.1), ("Dog.", 2.0, 2.1)]
    found, tally = told(words, caption="There  is a cat. Dog.")
    assert found == {"There is a cat": [0, 1, 10, 11], "Dog": [20, 21]}
    assert tally == {"utterances_not_in_caption": 1}


def test_the_same_word_twice_is_matched_in_order():
    found, _ = told([("cat.", 0.0, 0.1), ("cat", 1.0, 1.1), ("and", 2.0, 2.1), ("cat.", 3, 3.1)])
    assert found == {"cat": [0, 1], "cat and cat": [10, 11, 20, 21, 30, 31]}


def test_unicode_is_counted_in_characters():
    # The emoji is two UTF-16 units and four UTF-8 bytes, é here a letter and an accent.
    words = [
        ("Un cafe\u0301 ☕.", 0.0, 0.2),
        ("👩‍🍳 🥐", 1.0, 1.1),  # a sequence of three code points, and one
        ("croissants.", 2.0, 2.1),
        ("两只猫。", 3.0, 3.1),
        ("ὀδός.", 4.0, 4.2),
    ]
    found, tally = told(json.loads(json.dumps(words)))
    assert not tally
    assert found == {
        "Un cafe\u0301 ☕": [0, 1, 2],
        "👩‍🍳 🥐 croissants": [10, 11, 20, 21],
        "两只猫。 ὀδός": [30, 31, 40, 41, 42],  # no space after this full stop: one sentence
    }


def test_spaces_of_any_kind_are_one():
    found, tally = told(
        [("A  black", 0.0, 0.1), ("cat.\n", 1.0, 1.1), (" Dog. ", 2.0, 2.1)],
        caption=" A black\u00a0\tcat.  Dog.",
    )
    assert found == {"A black cat": [0, 1, 10, 11], "Dog": [20, 21]} and not tally


def test_traces_of_several_segments_keep_the_order_of_time():
    late, early = (
        [{"x": 1.1, "y": 0.05, "t": 0.5}],
        [{"x": -0.1, "y": 0.02, "t": 0.2}, {"x": 0, "y": 0.03, "t": 0.3}],
    )
    found, tally = told([("cat.", 0.0, 1.0)], traces=[late, early, []])
    assert found == {"cat": [2, 3, 5]} and tally == {"points_outside_image": 2}


def test_points_outside_are_kept_unless_all_are():
    content = narrative(1)
    content["traces"][0][3]["x"] = -0.09
    for point in content["traces"][1][5:]:
        point["y"] = 1.01
    tally = collections.Counter()
    (annotation,) = narrations(content, "here", tally)
    assert annotation.region.points.min() == np.float32(-0.09)
    assert +tally == {"points_outside_image": 31, "sentences_drawn_outside": 1}


# ---- sentences as RegionVLM cuts them ----


def regionvlm(content):
    """The preparation as it is described, step by step, with lists: {sentence: 20 points}."""
    points = [point for segment in content["traces"] for point in segment]
    utterances, character = [], 0
    for entry in content["timed_caption"]:
        inside = []
        for point in points:
            if entry["start_time"] <= point["t"] <= entry["end_time"]:
                inside.append([point["x"], point["y"]])
        utterances.append((character, inside))
        character += len(entry["utterance"]) + 1
    caption = content["caption"]
    pieces, at = [""], 0
    while at < len(caption):
        for mark in (". ", ".", " and ", ",", ", ", ", and"):
            if caption.startswith(mark, at):
                pieces.append("")
                at += len(mark)
                break
        else:
            pieces[-1] += caption[at]
            at += 1
    sentences, unused = {}, caption
    for piece in pieces:
        if piece == "":
            continue
        start = unused.index(piece)
        stop = start + len(piece)
        unused = unused[:start] + "-" * len(piece) + unused[stop:]
        sentences[piece] = []
        for first, inside in utterances:
            if start <= first <= stop:
                sentences[piece] += inside
    return {
        sentence: [every[int((len(every) - 1) / 19 * (j - 1))] for j in range(1, 21)]
        for sentence, every in sentences.items()
        if every
    }


def random_narrative(seed):
    """Timed words of which some belong together, some do not fit, some repeat whole sentences."""
    rng = random.Random(seed)
    vocabulary = [
        "a",
        "and",
        "cat,",
        "dog.",
        "man.",
        ",",
        "the",
        ".an",
        "-",
        "land",
        "ü,and",
        "and",
    ]
    words = rng.choices(vocabulary, k=40)
    words += words[: rng.randrange(12)]
    timed, clock, at = [], 0.0, 0
    while at < len(words):
        many = rng.choice((1, 1, 1, 2, 3))
        length = rng.choice((0.0, 0.1, 0.25, 0.6))
        timed.append(
            {
                "utterance": " ".join(words[at : at + many]),
                "start_time": round(clock, 2),
                "end_time": round(clock + length, 2),
            }
        )
        clock += length + rng.choice((0, 0, 0.05, 1.0))  # some end where the next begins
        at += many
    points = [
        {"x": rng.uniform(-0.1, 1.1), "y": rng.random(), "t": i / 20}
        for i in range(int(clock * 20))
    ]
    rng.shuffle(points)
    caption = rng.choice((" ", "  ")).join(words)
    return {"caption": caption, "timed_caption": timed, "traces": [points[:50], [], points[50:]]}


def test_paper_parity():
    compared, collapsed = 0, 0
    for seed in range(60):
        content = random_narrative(seed)
        expected = {}
        for text, points in regionvlm(content).items():
            if any(character.isalnum() for character in text):
                expected.setdefault(" ".join(text.split()), []).append(points)
        tally = collections.Counter()
        found = collections.defaultdict(list)
        for annotation in narrations(content, "here", tally, "paper"):
            found[annotation.text].append(annotation.region.points)
        assert list(found) == list(expected)
        for text, lists in expected.items():  # two that differ in spaces only stay two
            np.testing.assert_array_equal(found[text], np.float32(lists))
            compared += len(lists)
        collapsed += tally["sentences_said_again"]
    assert compared > 500 and collapsed > 50


def test_papers_own_example():
    caption = (
        "In this image I can see a cat, and a dog and a mat. "
        "In the background there is a tree, sky."
    )
    words = caption.split()
    timed = [(word, float(i), i + 0.5) for i, word in enumerate(words)]
    traces = [[{"x": 0.5, "y": i / 100, "t": i + 0.2} for i in range(len(words))]]
    found, tally = told(timed, traces=traces, sentences="paper")
    assert list(found) == [
        "In this image I can see a cat",
        "a dog",
        "a mat",
        "In the background there is a tree",
        "sky",
    ]
    # A point a word; the "and" of a cut points at nothing.
    words_of = {text: sorted(set(times)) for text, times in found.items()}
    assert words_of == {
        "In this image I can see a cat": list(range(8)),
        "a dog": [9, 10],
        "a mat": [12, 13],
        "In the background there is a tree": list(range(14, 21)),
        "sky": [21],
    }
    assert all(len(times) == 20 for times in found.values())
    assert found["a dog"] == [9] * 19 + [10]  # truncated, not rounded
    assert tally == {}


def test_paper_counts_the_character_after_a_sentence_to_it():
    # Utterances are taken to start at 0, 2 and 5; "a   b" ends at 5, "dog" stands at 7.
    words = [("a", 0.0, 0.1), ("b.", 1.0, 1.1), ("dog", 2.0, 2.1)]
    found, tally = told(words, caption="a   b. dog", sentences="paper")
    assert {text: sorted(set(times)) for text, times in found.items()} == {
        "a b": [0, 1, 10, 11, 20, 21]
    }
    assert tally == {"sentences_without_trace": 1}


def test_paper_keeps_the_last_of_equal_sentences():
    caption = "a cat and a cat and dog"
    words = [(word, float(i), i + 0.05) for i, word in enumerate(caption.split())]
    found, tally = told(words, sentences="paper")
    assert found == {"a cat": [30] * 19 + [40], "dog": [60] * 20}
    assert tally == {"sentences_said_again": 1}
    # One utterance belongs where it starts: to the first "a cat", which the second replaces.
    found, tally = told([(caption, 0.0, 0.4)], sentences="paper")
    assert found == {}
    assert tally == {"sentences_said_again": 1, "sentences_without_trace": 2}


# ---- real traces ----


def test_real_traces(shared_data):
    """Video narratives hold the only public traces; put into the image form they align as timed."""
    path = shared_data / "video_localized_narratives/OVIS_train_sample.jsonl"
    sentences = 0
    for line in path.read_text().splitlines():
        for actor in json.loads(line)["actor_narratives"]:
            start = actor["recording_start_time_ms_since_epoch"]
            words = [
                {
                    "utterance": word["referenced_word"],
                    "start_time": word["start_ms"] / 1000,
                    "end_time": word["end_ms"] / 1000,
                }
                for word in actor["time_alignment"]
            ]
            trace = [
                [
                    {"x": p["x"], "y": p["y"], "t": (p["time_ms_since_epoch"] - start) / 1000}
                    for p in segment
                ]
                for segment in actor["traces"]
            ]
            content = {"caption": actor["caption"], "timed_caption": words, "traces": trace}
            tally = collections.Counter()
            found = narrations(content, actor["actor_name"], tally)
            assert not tally["utterances_not_in_caption"]
            assert len(found) + tally["sentences_without_trace"] == actor["caption"].count(".")
            spoken = {
                (p["x"], p["y"])
                for p in sum(trace, [])
                if any(w["start_time"] <= p["t"] <= w["end_time"] for w in words)
            }
            points = {tuple(p) for a in found for p in a.region.points.tolist()}
            assert points <= {tuple(np.float32(p).tolist()) for p in spoken}
            sentences += len(found)
            paper = regionvlm(content)
            again = narrations(content, actor["actor_name"], tally, "paper")
            assert [a.text for a in again] == [text.strip() for text in paper]
            for annotation, expected in zip(again, paper.values(), strict=True):
                np.testing.assert_array_equal(annotation.region.points, np.float32(expected))
    assert sentences == 7
