"""Odd and broken image files: what is decoded, and what is refused by name."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from input_pipeline.images import BadImage, check_image, decode_image, read_image

SIZE = 16
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def halves(left, right, mode="RGB", size=(SIZE, SIZE)):
    """An image whose left half has one colour and whose right half has another."""
    image = Image.new(mode, size, right)
    image.paste(left, (0, 0, size[0] // 2, size[1]))
    return image


def noise(size=64):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8))


def colours(data, size=SIZE):
    """The decoded colours in the middle of the left and of the right half."""
    assert check_image(data, "odd") == Image.open(io.BytesIO(data)).size
    pixels = decode_image(data, size, "odd")
    assert pixels.shape == (size, size, 3) and pixels.dtype == np.uint8
    return [tuple(pixels[size // 2, column].tolist()) for column in (size // 4, 3 * size // 4)]


def near(found, expected):
    np.testing.assert_allclose(found, expected, atol=3)  # JPEG


# ---- odd ----


def test_cmyk():
    cyan, dark = (255, 0, 0, 0), (0, 0, 0, 155)
    for data in (
        encoded(halves(cyan, dark, "CMYK"), "jpeg", quality=95),
        encoded(halves(cyan, dark, "CMYK"), "tiff"),
    ):
        near(colours(data), [(0, 255, 255), (100, 100, 100)])


def test_grey_and_black_and_white():
    near(colours(encoded(halves(40, 200, "L"), "jpeg")), [(40,) * 3, (200,) * 3])
    assert colours(encoded(halves(40, 200, "L"), "png")) == [(40,) * 3, (200,) * 3]
    assert colours(encoded(halves(0, 1, "1"), "png")) == [(0, 0, 0), WHITE]


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_16_bit_grey_keeps_its_upper_bits(kind):
    values = np.full((SIZE, SIZE), 0x1234, np.uint16)
    values[:, SIZE // 2 :] = 0xFEDC
    data = encoded(Image.fromarray(values), kind)
    assert colours(data) == [(0x12,) * 3, (0xFE,) * 3]


def test_transparency_is_laid_on_white():
    half_red = (*RED, 127)
    data = encoded(halves(half_red, (*BLUE, 0), "RGBA"), "png")
    assert colours(data) == [(255, 128, 128), WHITE]
    data = encoded(halves((100, 51), (0, 0), "LA"), "png")
    assert colours(data) == [(224,) * 3, WHITE]  # 255 - (255 - 100) / 5
    data = encoded(halves((*RED, 255), (*BLUE, 0), "RGBA"), "webp", lossless=True, exact=True)
    assert colours(data) == [RED, WHITE]


@pytest.mark.parametrize("kind", ["png", "gif"])
def test_a_transparent_palette_entry_is_white(kind):
    image = halves(0, 1, "P")
    image.putpalette([*GREEN, *BLUE])
    assert colours(encoded(image, kind)) == [GREEN, BLUE]
    assert colours(encoded(image, kind, transparency=1)) == [GREEN, WHITE]


def test_a_transparent_colour_is_white():
    assert colours(encoded(halves(RED, BLUE), "png", transparency=BLUE)) == [RED, WHITE]


@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
def test_exif_orientation_is_ignored(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(halves(RED, BLUE, size=(64, 32)), "jpeg", quality=95, exif=exif)
    assert Image.open(io.BytesIO(data)).getexif()[0x0112] == orientation
    assert check_image(data, "turned") == (64, 32)
    near(colours(data), [RED, BLUE])


@pytest.mark.parametrize(
    ("kind", "options"), [("gif", {}), ("webp", {"lossless": True}), ("png", {})]
)
def test_the_first_frame_of_several(kind, options):
    later = [halves(GREEN, GREEN), halves(WHITE, WHITE)]
    data = encoded(halves(RED, BLUE), kind, save_all=True, append_images=later, **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert colours(data) == [RED, BLUE]


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "gif", "bmp", "tiff", "ppm"])
def test_large_images_are_squeezed(kind):
    near(colours(encoded(halves(RED, BLUE, size=(200, 90)), kind, quality=100)), [RED, BLUE])


# ---- broken ----


def chunk(name, content):
    whole = name + content
    return struct.pack(">I", len(content)) + whole + struct.pack(">I", zlib.crc32(whole))


def bomb():
    """A PNG of a few bytes that says it has 20000x20000 pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + body


def text_bomb():
    """A PNG whose comment unpacks to 2 MB, more than Pillow takes for safe."""
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "a" * 2_000_000, zip=True)
    return encoded(noise(8), "png", pnginfo=info)


BROKEN = {
    "empty": (lambda: b"", "file is empty"),
    "text": (lambda: b"<html>404 Not Found</html>", "no image, it begins with b'<html>404"),
    "pickle": (lambda: b"cos\nsystem\n(S'true'\ntR.", "no image"),
    "eps": (lambda: encoded(noise(), "eps"), "no image, it begins with b'%!PS"),
    "float": (lambda: encoded(Image.new("F", (8, 8)), "tiff"), "pixels of mode F"),
    "integer": (lambda: encoded(Image.new("I", (8, 8)), "tiff"), "pixels of mode I"),
    "bomb": (bomb, "400000000 pixels.*decompression bomb"),
    "text bomb": (text_bomb, "[Dd]ecompress"),
    **{
        f"half a {kind}": (
            lambda kind=kind, options=options: (whole := encoded(noise(), kind, **options))[
                : len(whole) // 2
            ],
            r"\w",
        )
        for kind, options in {
            "jpeg": {},
            "jpeg2000": {},
            "png": {},
            "gif": {},
            "webp": {},
            "bmp": {},
            "tiff": {},
        }.items()
    },
    "half a progressive jpeg": (
        lambda: (whole := encoded(noise(), "jpeg", progressive=True))[: len(whole) // 2],
        "truncated",
    ),
    "a header alone": (lambda: encoded(noise(), "jpeg")[:300], r"\w"),
    "zeros in the middle": (
        lambda: (whole := encoded(noise(), "png"))[:500] + bytes(500) + whole[1000:],
        r"\w",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_images_are_named(tmp_path, name):
    make, message = BROKEN[name]
    data = make()
    (tmp_path / "broken.jpg").write_bytes(data)
    expected = rf"broken.jpg \({len(data)} bytes\): .*{message}"
    with pytest.raises(BadImage, match=expected):
        read_image(tmp_path, "broken.jpg")
    with pytest.raises(BadImage, match=expected):
        decode_image(data, 8, "broken.jpg")


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(BadImage, match="none.jpg: No such file"):
        read_image(tmp_path, "none.jpg")
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(BadImage, match="folder.jpg: Is a directory"):
        read_image(tmp_path, "folder.jpg")


def test_checking_finds_what_decoding_finds():
    """A JPEG is checked at 1/8 of its size; wherever it is cut, both refuse it."""
    whole = encoded(noise(), "jpeg", quality=90)
    for length in np.linspace(200, len(whole) - 10, 50).astype(int):
        for read in (check_image, lambda data, name: decode_image(data, 64, name)):
            with pytest.raises(BadImage, match="cut"):
                read(whole[:length], "cut")


# ---- real photographs ----


def quarters(pixels):
    """The mean colour of each quarter: no resizing has to be trusted."""
    rows = [row for half in np.array_split(pixels, 2) for row in np.array_split(half, 2, axis=1)]
    return [part.mean(axis=(0, 1)) for part in rows]


def test_real_photographs(shared_data):
    modes = {}
    for path in sorted((shared_data / "photos").glob("*.[jp][pn]g")):
        if path.name == "truncated.jpg":
            with pytest.raises(BadImage, match="truncated.jpg"):
                read_image(path.parent, path.name)
            continue
        data, width, height = read_image(path.parent, path.name)
        with Image.open(path) as image:
            assert image.size == (width, height)
            stored, mode = np.asarray(image, np.float64), image.mode
            modes.setdefault(mode, []).append(path.name)
            if mode == "RGBA":
                share = stored[..., 3:] / 255
                shown = stored[..., :3] * share + 255 * (1 - share)
            else:
                shown = np.broadcast_to(stored.reshape(height, width, -1), (height, width, 3))
        found = decode_image(data, 32, path.name).astype(np.float64)
        np.testing.assert_allclose(quarters(found), quarters(shown), atol=3)
    assert modes["RGBA"] == ["horse.png"] and modes["L"] == ["camera.png", "coins.png"]


def test_images_are_squeezed(shared_data):
    for name in ("astronaut.png", "camera.png", "horse.png", "retina.jpg", "rocket.jpg"):
        data, width, height = read_image(shared_data / "photos", name)
        image = decode_image(data, 64, name)
        assert image.shape == (64, 64, 3) and image.dtype == np.uint8
        with Image.open(shared_data / "photos" / name) as original:
            assert original.size == (width, height)
            small = original.convert("RGB").resize((64, 64), Image.Resampling.BOX)
        assert np.abs(image.astype(int) - np.asarray(small).astype(int)).mean() < 6


def test_an_image_of_the_right_size_is_not_touched():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    np.testing.assert_array_equal(decode_image(file.getvalue(), 16, ""), pixels)


def test_truncated_photograph(shared_data):
    data = (shared_data / "photos/truncated.jpg").read_bytes()
    with pytest.raises(BadImage, match=r"coco:a.jpg \(400 bytes\)"):
        decode_image(data, 64, "coco:a.jpg")
    with pytest.raises(BadImage, match=r"photos/truncated.jpg \(400 bytes\)"):
        read_image(shared_data / "photos", "truncated.jpg")
