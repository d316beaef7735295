"""Questions about the built-in world: true, not to be guessed, and read back as VQAv2 and VCR."""

import collections
import json

import numpy as np
import pytest

from input_pipeline import prepare, scenes
from input_pipeline.parts import open_records
from input_pipeline.scenes import WorldError
from input_pipeline.scenes.choices import choose
from input_pipeline.scenes.expressions import RELATIONS, Phrases
from input_pipeline.scenes.outlines import outlines
from input_pipeline.scenes.questions import ask
from input_pipeline.scenes.scene import make_scene
from input_pipeline.scenes.vocabulary import BACKGROUNDS, COLOURS, NUMBERS, PATTERNS, SHAPES
from input_pipeline.sources import source_below
from regionjax.masks import decode_rle, polygon_mask

COUNTS = {"train": 20, "val": 5, "test": 3}
GOLDEN = "f74005bc1f69a72aee81b5c9f6acfec69d1634c58cfdc989ef80398238e291ca"
CLASSES = {"color": set(COLOURS), "pattern": set(PATTERNS), "shape": set(SHAPES)}
PLACES = {"color": 1, "pattern": 2, "shape": 3}


def write(root, **arguments):
    return scenes.write_world(root, seed=7, **COUNTS, processes=1, progress=False, **arguments)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "world", questions=True)


def scene_of(number):
    scene = make_scene(np.random.default_rng([1, number]), 48)
    return scene, Phrases(scene), np.random.default_rng([2, number])


@pytest.fixture(scope="module")
def asked():
    """[(scene, Questions, Choices)] of 1500 scenes."""
    found = []
    for number in range(1500):
        scene, phrases, rng = scene_of(number)
        found.append((scene, ask(scene, phrases, rng), choose(scene, phrases, rng)))
    return found


# ---- true ---------------------------------------------------------------------------------------


def fitting(scene, words):
    """Indices of the things that all the words fit."""
    words = [word for word in words if word != "object"]
    return [
        index for index, thing in enumerate(scene.things) if set(words) <= set(thing.name.split())
    ]


def meant(scene, text):
    """The indices that `red circle` or `circle left of the square` mean, by middles of boxes."""
    for relation, (axis, sign) in RELATIONS.items():
        head, found, anchor = text.partition(f" {relation} the ")
        if found:
            (other,) = fitting(scene, anchor.split())
            ahead = sign * (scene.centres[:, axis] - scene.centres[other, axis])
            return [i for i in fitting(scene, head.split()) if i != other and ahead[i] > 0.03]
    return fitting(scene, text.split())


def check_question(scene, question):
    text = question.text.removesuffix("?")
    if question.kind in ("what color is the", "what pattern has the", "what shape is the"):
        (thing,) = meant(scene, text.removeprefix(f"{question.kind} "))
        kind = question.kind.split()[1]
        assert question.answer == scene.things[thing].name.split()[PLACES[kind]]
        assert question.answer not in text.split()
    elif question.kind == "how many":
        words = text.split()[2:-2]
        singular = [w.removesuffix("es") if w == "crosses" else w.removesuffix("s") for w in words]
        assert question.answer == str(len(fitting(scene, singular)))
    elif question.kind == "is there a":
        assert question.answer == ("yes" if fitting(scene, text.split()[3:]) else "no")
    elif question.kind == "is the":
        text = text.removeprefix("is the ")
        relation = next(r for r in RELATIONS if f" {r} the " in text)
        one, other = (fitting(scene, t.split()) for t in text.split(f" {relation} the "))
        axis, sign = RELATIONS[relation]
        (ahead,) = sign * (scene.centres[one, axis] - scene.centres[other, axis])
        assert abs(ahead) > 0.09 and question.answer == ("yes" if ahead > 0 else "no")
    else:
        assert question.text == "what does everything lie on?"
        assert question.answer == scene.background


def test_questions_are_true(asked):
    kinds = collections.Counter()
    for scene, questions, _ in asked:
        for question in questions:
            check_question(scene, question)
            kinds[question.kind] += 1
            assert len(question.answers) == 10
            assert question.answers.count(question.answer) >= 8
    assert len(kinds) == 7 and min(kinds.values()) > 300
    assert 5 < sum(kinds.values()) / len(asked) < 7


def says(scene, tokens):
    """Whether `[2] is a small red striped circle and [4] is …` is true."""
    text = " ".join(f"<{t[0]}>" if isinstance(t, list) else t for t in tokens)
    if "objects lie on" in text:
        number, background = text.split(" objects lie on ")
        return NUMBERS.index(number) == len(scene.things) and background == scene.background
    parts = [part.split() for part in text.split(" and ")]
    return all(
        set(words) <= set(scene.things[int(thing[1:-1])].name.split())
        for thing, _, _, *words in parts
    )


def test_choices_are_true_and_no_other_is(asked):
    kinds = collections.Counter()
    for scene, _, choices in asked:
        for choice in choices:
            assert [says(scene, reason) for reason in choice.rationales] == [
                place == choice.rationale for place in range(4)
            ]
            assert len({tuple(answer) for answer in choice.answers}) == 4
            (right,) = choice.answers[choice.answer]
            words = choice.question
            kinds[words[1]] += 1
            if words[1] in PLACES:
                ((thing,),) = (token for token in words if isinstance(token, list))
                assert right == scene.things[thing].name.split()[PLACES[words[1]]]
                assert {answer for (answer,) in choice.answers} <= CLASSES[words[1]]
            elif words[1] == "do":
                names = [scene.things[index].name.split() for index in words[2]]
                shared = [kind for kind, at in PLACES.items() if names[0][at] == names[1][at]]
                assert (shared or ["nothing"]) == [right]
            else:
                assert right == scene.background and right in BACKGROUNDS
    assert kinds.keys() == {"color", "pattern", "shape", "do", "does"}
    assert min(kinds.values()) > 300


# ---- not to be guessed --------------------------------------------------------------------------


def learn(examples):
    """Naive Bayes on words and pairs: [(words, answer)] → function of words and answers."""
    prior, seen = collections.Counter(), collections.defaultdict(collections.Counter)
    for words, answer in examples:
        prior[answer] += 1
        seen[answer].update(set(words) | set(zip(words, words[1:], strict=False)))

    def guess(words, answers):
        features = set(words) | set(zip(words, words[1:], strict=False))
        return max(
            answers,
            key=lambda a: (
                np.log(prior[a] + 0.5)
                + sum(np.log((seen[a][f] + 0.5) / (prior[a] + 1)) for f in features)
            ),
        )

    return guess


def test_answers_cannot_be_guessed_from_questions(asked):
    """By the most frequent answer of a question, of its kind or of its words, on other scenes."""
    groups = collections.defaultdict(lambda: ([], []))
    for number, (_, questions, _) in enumerate(asked):
        for question in questions:
            words = question.text.removesuffix("?").split()
            groups[question.kind][number >= 1000].append((words, question.answer))
    chance = {"is the": 1 / 2, "is there a": 1 / 2, "how many": 1 / 5, "what color is the": 1 / 8,
              "what pattern has the": 1 / 4, "what shape is the": 1 / 7,
              "what does everything lie on": 1 / 5}  # fmt: skip
    for kind, (known, new) in groups.items():
        usual = collections.defaultdict(collections.Counter)
        for words, answer in known:
            usual[" ".join(words)][answer] += 1
            usual[""][answer] += 1
        majority = [
            usual[key if sum(usual[key].values()) > 9 else ""].most_common(1)[0][0] == answer
            for words, answer in new
            for key in [" ".join(words)]
        ]
        by_words = learn(known)
        learnt = [by_words(words, list(usual[""])) == answer for words, answer in new]
        for right in (majority, learnt):
            slack = 3 * np.sqrt(chance[kind] * (1 - chance[kind]) / len(new))
            assert np.mean(right) < chance[kind] + 0.03 + slack, kind


def test_choices_cannot_be_guessed_from_their_texts(asked):
    """By place, by what is frequent among right ones, or by what resembles the others most."""
    known, new = collections.defaultdict(list), collections.defaultdict(list)
    for number, (_, _, choices) in enumerate(asked):
        for choice in choices:
            kind = choice.question[1]
            for name, texts, right in (
                ("answer", choice.answers, choice.answer),
                ("rationale", choice.rationales, choice.rationale),
            ):
                plain = [[t for t in text if isinstance(t, str)] for text in texts]
                (new if number >= 1000 else known)[kind, name].append((plain, right))
    for key, items in new.items():
        wins = collections.defaultdict(list)
        frequent = learn(
            [(text, place == right) for texts, right in known[key] for place, text in
             enumerate(texts)]
        )  # fmt: skip
        for texts, right in items:
            alike = [sum(len(set(a) & set(b)) for b in texts) for a in texts]
            for name, score in {
                "alike": alike,
                "odd": [-number for number in alike],
                "first": [1, 0, 0, 0],
                "frequent": [frequent(text, [True, False]) for text in texts],
            }.items():
                best = [place for place, number in enumerate(score) if number == max(score)]
                wins[name].append((right in best) / len(best))
        for name, shares in wins.items():
            assert np.mean(shares) < 0.25 + 3 * np.sqrt(0.19 / len(items)), (key, name)


# ---- on disk ------------------------------------------------------------------------------------


def test_other_files_are_those_of_a_world_without_questions(world, tmp_path):
    plain = write(tmp_path / "plain")
    files = {path.relative_to(plain) for path in plain.rglob("*") if path.is_file()}
    for file in files - {next(f for f in files if f.name == "world.json")}:
        assert (world / file).read_bytes() == (plain / file).read_bytes(), file
    assert "questions" not in (plain / "world.json").read_text()
    with pytest.raises(WorldError, match="questions True there, False wanted"):
        write(world)
    with pytest.raises(WorldError, match="questions False there, True wanted"):
        write(plain, questions=True)


def test_golden_hash(world):
    """If this fails on purpose, raise writer.GENERATOR with it."""
    assert json.loads((world / "world.json").read_text())["sha256"] == GOLDEN


def records(world, name, split):
    source, tally = source_below(world, name), collections.Counter()
    found = [source.record(item, tally) for item in source.items(split, tally)]
    assert not +tally  # nothing is left out
    return found


@pytest.mark.parametrize("split", COUNTS)
def test_vqav2_reads_them_back(world, split):
    found = records(world, "vqav2", split)
    assert len(found) == COUNTS[split]
    ids = [annotation.id for record in found for annotation in record.annotations]
    assert len(set(ids)) == len(ids) > 4 * len(found)
    for record in found:
        picture = world / f"{split}2017/{record.coco_id:012d}.jpg"
        assert record.image == picture.read_bytes()
        for annotation in record.annotations:
            extra = annotation.extra
            assert annotation.kind == "question" and extra["answer"] in extra["answers"]
            assert len(extra["answers"]) == 10
            expected = "number" if extra["answer"].isdecimal() else "other"
            expected = "yes/no" if extra["answer"] in ("yes", "no") else expected
            assert extra["answer_type"] == expected


@pytest.mark.parametrize("split", COUNTS)
def test_vcr_reads_them_back(world, split):
    things = json.loads((world / f"annotations/instances_{split}2017.json").read_text())
    names = {category["id"]: category["name"] for category in things["categories"]}
    masks = collections.defaultdict(list)
    for thing in things["annotations"]:
        mask = decode_rle(thing["segmentation"])
        masks[thing["image_id"]].append((names[thing["category_id"]], mask))
    found = records(world, "vcr", split)
    assert len(found) == COUNTS[split]
    for record in found:
        expected = masks[int(record.file_name[6:18])]
        objects = [a for a in record.annotations if a.kind == "phrase"]
        assert [(a.text, a.id) for a in objects] == [
            (name, str(index)) for index, (name, _) in enumerate(expected)
        ]
        for annotation, (_, mask) in zip(objects, expected, strict=True):
            np.testing.assert_array_equal(annotation.region.mask, mask)
        choices = [a for a in record.annotations if a.kind == "choice"]
        assert 2 <= len(choices) <= 3
        for annotation in choices:
            named = [i for i in range(len(expected)) if f"[{i}]" in annotation.text]
            assert (annotation.geometry is None) == (not named)
            if named:
                union = np.any([expected[index][1] for index in named], axis=0)
                np.testing.assert_array_equal(annotation.region.mask, union)


def test_the_command_prepares_them(tmp_path):
    arguments = "world vqav2 vcr --questions --seed 7 --train 2 --val 2 --test 0 --split val"
    folders = ["--root", str(tmp_path / "world"), "--out", str(tmp_path / "out")]
    prepare.main([*arguments.split(), *folders, "--processes", "1"])
    kinds = {
        name: {a.kind for record in open_records(tmp_path / "out", name, "val")
               for a in record.annotations}
        for name in ("vqav2", "vcr")
    }  # fmt: skip
    assert kinds == {"vqav2": {"question"}, "vcr": {"phrase", "choice"}}


def test_outlines_have_exactly_the_pixels():
    rng = np.random.default_rng(0)
    assert outlines(np.zeros((3, 4), bool)) == []
    assert outlines(np.ones((2, 3), bool)) == [[[0, 0], [3, 0], [3, 2], [0, 2]]]
    for _ in range(300):  # holes, parts that touch with a corner, lines of one pixel
        height, width = rng.integers(1, 10, 2)
        mask = rng.random((height, width)) < rng.random()
        found = [polygon_mask([np.ravel(p)], height, width) for p in outlines(mask)]
        np.testing.assert_array_equal(np.sum(found, axis=0, dtype=int) if found else mask, mask)
