"""Lines of a terminal: what they mean, what is printed, and that nothing wrong ends it."""

import numpy as np
import pytest
import toy_dialogue as toy
from PIL import Image

from input_pipeline.errors import DataError
from regionjax.dialogue import Photograph
from regionjax.regions import WHOLE_IMAGE, RegionError
from regionjax.terminal import HELP, LineError, Terminal, parse

PHOTO = toy.photograph(width=40, height=20)


@pytest.fixture
def masks(tmp_path):
    """A folder of masks: one with its right half on, one without a pixel, one too small, a text."""
    right = np.zeros((20, 40), np.uint8)
    right[:, 20:] = 255
    for name, mask in {"right half": right, "none": 0 * right, "small": right[:10]}.items():
        Image.fromarray(mask).save(tmp_path / f"{name}.png")
    (tmp_path / "text.png").write_text("no image")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "points", "question", "shown"),
    [
        ("@12,5", [(0.3, 0.25)], "", "point 12,5"),
        ("@12,5 what is this?", [(0.3, 0.25)], "what is this?", "point 12,5"),
        (" @ 12,5   15,10 2.5,0  a? ", [(0.3, 0.25), (0.375, 0.5), (0.0625, 0)], "a?", "3 points"),
        ("@0,0 40,20 3 of what?", [(0, 0), (1, 1)], "3 of what?", "2 points"),
    ],
)  # fmt: skip
def test_points(line, points, question, shown):
    said = parse(line, PHOTO)
    np.testing.assert_allclose(said.region.points, points, rtol=1e-6)
    assert (said.command, said.text, said.shown) == ("", question, shown)


def test_boxes_masks_and_the_whole_image(masks):
    said = parse("@box 10,5,30,20 what is it?", PHOTO)
    np.testing.assert_allclose(said.region.box, (0.25, 0.25, 0.75, 1), rtol=1e-6)
    assert (said.text, said.shown) == ("what is it?", "box 10,5,30,20")
    said = parse(f"@mask '{masks}/right half.png' what is it?", PHOTO)
    np.testing.assert_allclose(said.region.bounding_box(), (0.5, 0, 1, 1))
    assert (said.text, said.shown) == ("what is it?", f"mask {masks}/right half.png")
    said = parse("@all", PHOTO)
    assert (said.region, said.text, said.shown) == (WHOLE_IMAGE, "", "whole image")


def test_plain_questions_and_commands():
    said = parse(" what colour? ", PHOTO)
    assert (said.command, said.region, said.text) == ("", None, "what colour?")
    said = parse("/alone @box 10,5,30,20 what is it?", PHOTO)
    assert (said.command, said.region.kind, said.text) == ("alone", "box", "what is it?")
    assert parse("/quit", None).command == "quit"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("/image my photo.jpg", "my photo.jpg"),
        ("/image 'my photo.jpg' ", "my photo.jpg"),
        ('/image "my dog\'s.jpg"', "my dog's.jpg"),
        ("/image 'tis a photo.jpg", "'tis a photo.jpg"),
        ("/image 'my' photo.jpg", "'my' photo.jpg"),
    ],
)
def test_a_photograph_may_stand_in_quotes(line, name):
    said = parse(line, None)
    assert (said.command, said.text) == ("image", name)


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ("/cler", LineError, "no /cler; did you mean `/clear`"),
        ("/clear all", LineError, "/clear stands alone; what is 'all' for"),
        ("/image", LineError, "which one"),
        ("/image ''", LineError, "which one"),
        ("@bx 1,2,3,4", LineError, "@bx is nothing to point with; did you mean `@box`"),
        ("@", LineError, "points look like @12,30 15,33"),
        ("@12;5 what", LineError, "'12;5' is no point"),
        ("@12,5 15,10, what", LineError, "'15,10,' is no point"),
        ("@box 10,5,30 what", LineError, "'10,5,30' is no box"),
        ("@box", LineError, "'' is no box"),
        ("@mask", LineError, "which mask"),
        ("@12,5 41,5", RegionError, "point 41,5 lies outside .* 40 x 20 .* nearest .* 40,5$"),
        ("@-1,5", RegionError, "nearest one inside is 0,5"),
        ("@box 10,5,10,15", RegionError, "box 10,5,10,15 has no area"),
        ("@box 30,5,10,15", RegionError, "has no area; a box is left, top, right, bottom"),
        ("@box 10,5,50,15", RegionError, "leaves .* 40 x 20 .* the part inside is 10,5,40,15"),
        ("@box 50,5,60,15", RegionError, "leaves .* no part of it is inside"),
        ("@mask MASKS/absent.png", DataError, "absent.png cannot be read: .*No such file"),
        ("@mask ~absent.png", DataError, "~absent.png cannot be read: .*No such file"),
        ("@mask MASKS/text.png", DataError, "text.png cannot be read"),
        ("@mask MASKS/small.png", DataError, "small.png is 40 x 10 pixels, the photograph 40 x 20"),
        ("@mask MASKS/none.png", RegionError, "has no pixel"),
    ],
)
def test_lines_that_mean_nothing(masks, line, error, message):
    with pytest.raises(error, match=message):
        parse(line.replace("MASKS", str(masks)), PHOTO)


def test_a_question_without_a_photograph():
    with pytest.raises(LineError, match="no photograph yet: /image FILE"):
        parse("what is it?", None)


@pytest.fixture(scope="module")
def speaker(tmp_path_factory):
    return toy.speaker(toy.tokenizer(tmp_path_factory.mktemp("words")))


def transcript(speaker, lines, photograph=PHOTO):
    """All that is printed, with what is typed after its prompt."""
    printed, lines = [], iter(lines)

    def read(prompt):
        line = next(lines, None)
        printed.append(prompt + ("" if line is None else line + "\n"))
        return line

    terminal = Terminal(speaker, read, printed.append)
    if photograph:
        terminal.show(photograph)
    terminal.run()
    return "".join(printed)


def test_a_conversation(speaker, tmp_path):
    (tmp_path / "bright.png").write_bytes(toy.photograph(200, 10, 10).data)
    lines = [
        "what is it",
        "",
        "@12,5 what is it",
        "what is this",
        "/alone",
        "@30,5 31,6 32,7 33,8",
        "/clear",
        "@box 0,0,20,20",
        f"/image {tmp_path}/bright.png",
        "what is it",
        "/help",
    ]
    assert transcript(speaker, lines) == (
        "0.png: 40 x 20 pixels\n"
        "@ points at something, /help says how.\n"
        "whole image> what is it\n"
        "one right dark\n"
        "whole image> \n"
        "whole image> @12,5 what is it\n"
        "two left dark\n"
        "point 12,5> what is this\n"
        "three left dark\n"
        "point 12,5> /alone\n"
        "one left dark\n"
        "point 12,5> @30,5 31,6 32,7 33,8\n"
        "(of 4 points the model reads 3, evenly spread)\n"
        "(of 4 earlier turns the model is told the last 3)\n"
        "four right dark\n"
        "4 points> /clear\n"
        "whole image> @box 0,0,20,20\n"
        "one left dark\n"
        f"box 0,0,20,20> /image {tmp_path}/bright.png\n"
        f"{tmp_path}/bright.png: 10 x 10 pixels\n"
        "whole image> what is it\n"
        "one right bright\n"
        "whole image> /help\n"
        f"{HELP}"
        "whole image> "
    )


def test_the_conversation_survives_bad_lines(speaker, masks):
    (masks / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    bad = [
        "@99,99 what is it",
        "@box 1,1,1,1",
        f"@mask {masks}/absent.png",
        "/claer",
        "@mask ~absent.png",  # nobody's home
        "/image absent.jpg",
        "/image ~absent.jpg",
        f"/image {masks}/broken.jpg",
        f"/image {masks}",
        "what is it what is it what is it",
    ]
    said = transcript(speaker, ["@12,5 what is it", *bad, "what is it", "/quit", "what is it"])
    *_, last = said.split("> /quit")
    assert last == "\n"  # what comes after it is not read
    assert said.count("\n! ") == len(bad)
    assert said.count("point 12,5> ") == len(bad) + 2  # the region stays
    assert "\ntwo left dark\n" in said  # and so do photograph and turns
    assert "\n! ~absent.jpg: No such file or directory\n" in said


def test_a_tilde_is_the_home(masks, monkeypatch):
    monkeypatch.setenv("HOME", str(masks))
    (masks / "bright.png").write_bytes(toy.photograph(200, 10, 10).data)
    assert Photograph.open("~/bright.png").width == 10
    said = parse("@mask '~/right half.png'", PHOTO)
    np.testing.assert_allclose(said.region.bounding_box(), (0.5, 0, 1, 1))


def test_a_conversation_begins_without_a_photograph(speaker, tmp_path):
    (tmp_path / "bright.png").write_bytes(toy.photograph(200, 10, 10).data)
    lines = ["what is it", "/clear", f"/image {tmp_path}/bright.png", "@2,2"]
    said = transcript(speaker, lines, photograph=None)
    assert "no photograph> what is it\n! there is no photograph yet: /image FILE\n" in said
    assert said.endswith("whole image> @2,2\none left bright\npoint 2,2> ")


def test_ctrl_c_ends_an_answer_and_not_the_conversation(speaker):
    printed = []

    def write(text):
        printed.append(text)
        if text == " left":
            raise KeyboardInterrupt

    lines = iter(["@2,2 what is it", "@2,2 what is it"])
    terminal = Terminal(speaker, lambda prompt: next(lines, None), write)
    terminal.show(PHOTO)
    terminal.run()
    said = "".join(printed)
    assert "one left … stopped\n" in said and "two left … stopped\n" in said
