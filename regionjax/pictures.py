"""Pictures for the report, as inline SVG: regions, points and heatmaps on photographs.

A photograph is embedded once (`Album`) and drawn as often as needed. What is drawn on it is
vectors in pixels of the photograph, so it stays sharp at any size; the classes of the shapes get
their colours from page.css. Everything here returns text; nothing reads the screen or the net.
"""

import base64
import html
import io

import numpy as np
from PIL import Image

from regionjax.charts import number

LARGEST = 256  # pixels of the longer side of an embedded photograph, in a report
FINEST = 160  # of a mask whose outline is drawn
HEAT = np.array([[255, 255, 178], [254, 178, 76], [240, 59, 32], [160, 0, 38]])  # low … high


class Album:
    """Photographs that a page embeds once, under a short id."""

    def __init__(self, largest=LARGEST):
        """Takes the pixels of the longer side of an embedded photograph."""
        self._largest = largest
        self._photos = {}  # key → (id, width, height, data URI)

    def add(self, key, encoded):
        """Keeps an encoded image (bytes that Pillow reads); returns its (id, width, height)."""
        if key not in self._photos:
            with Image.open(io.BytesIO(encoded)) as image:
                image.thumbnail((self._largest, self._largest))
                small = io.BytesIO()
                image.convert("RGB").save(small, "JPEG", quality=85)
                size = image.size
            uri = _data_uri("image/jpeg", small.getvalue())
            self._photos[key] = (f"photo-{len(self._photos)}", *size, uri)
        return self._photos[key][:3]

    def definitions(self):
        """The hidden SVG that holds every photograph; put it before the first picture."""
        images = "".join(
            f'<image id="{name}" width="{width}" height="{height}" href="{uri}"/>'
            for name, width, height, uri in self._photos.values()
        )
        hidden = 'class="album" width="0" height="0" aria-hidden="true"'
        return f"<svg {hidden}><defs>{images}</defs></svg>"


def picture(photo, layers, label):
    """A photograph with shapes on it.

    Args:
      photo: (id, width, height) from `Album.add`.
      layers: functions (width, height) → SVG, drawn in order.
      label: what is to be seen, for those who cannot see it.
    """
    name, width, height = photo
    drawn = "".join(layer(width, height) for layer in layers)
    return (
        f'<svg class="picture" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{html.escape(label)}"><use href="#{name}"/>{drawn}</svg>'
    )


# ---- layers -------------------------------------------------------------------------------------


def region_layer(region, style):
    """A Region as an outline, a box or a trace with its points; `style` is a CSS class."""
    if region.kind == "mask":
        return mask_layer(region.mask, style)
    if region.kind == "box":
        return box_layer(region.box, style)
    return trace_layer(region.points, style)


def mask_layer(mask, style):
    """The outline of a mask (bool [H, W]) along the edges of its pixels."""
    height, width = mask.shape
    if max(mask.shape) > FINEST:  # a longer outline would look the same
        height, width = (max(1, side * FINEST // max(mask.shape)) for side in mask.shape)
        image = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
        mask = np.asarray(image)
    path = "".join(map(_closed, outline(mask)))

    def draw(width_shown, height_shown):
        scale = f"scale({number(width_shown / width)} {number(height_shown / height)})"
        return _cased(f'd="{path}" transform="{scale}"', "path", style)

    return draw


def _closed(loop):
    """A loop of corners as the shortest SVG path: a start, then steps across and down."""
    steps = np.diff(np.array(loop), axis=0).tolist()  # z takes the last one, back to the start
    return "M{} {}".format(*loop[0]) + "".join(f"h{x}" if x else f"v{y}" for x, y in steps) + "z"


def box_layer(box, style):
    """A box, xyxy normalised."""

    def draw(width, height):
        x0, y0, x1, y1 = np.asarray(box, float) * (width, height, width, height)
        size = f'width="{number(x1 - x0)}" height="{number(y1 - y0)}"'
        return _cased(f'x="{number(x0)}" y="{number(y0)}" {size}', "rect", style)

    return draw


def trace_layer(points, style):
    """Points in time order, xy normalised: a line with a dot a point, the first one largest."""

    def draw(width, height):
        xy = np.clip(points, 0, 1) * (width, height)
        corners = " ".join(f"{number(x)},{number(y)}" for x, y in xy)
        small = max(width, height) / 100
        dots = "".join(
            f'<circle cx="{number(x)}" cy="{number(y)}" r="{number(radius)}"/>'
            for (x, y), radius in zip(xy, [2 * small] + [small] * (len(xy) - 1), strict=True)
        )
        line = _cased(f'points="{corners}"', "polyline", style) if len(xy) > 1 else ""
        return f'{line}<g class="dots {style}">{dots}</g>'

    return draw


def cross_layer(point, style):
    """A ringed cross at a point, xy normalised."""

    def draw(width, height):
        x, y = point[0] * width, point[1] * height
        arm = max(width, height) / 20
        cross = f"M{number(-arm)} 0H{number(arm)}M0 {number(-arm)}V{number(arm)}"
        r, turn = number(0.6 * arm), number(1.2 * arm)
        ring = f"M-{r} 0a{r} {r} 0 1 0 {turn} 0a{r} {r} 0 1 0 -{turn} 0"
        move = f'transform="translate({number(x)} {number(y)})"'
        return _cased(f'd="{cross}{ring}" {move}', "path", style)

    return draw


def heat_layer(heatmap):
    """A heatmap (f32 [h, w]) over the photograph: nothing where it is lowest, dark red on top."""
    finite = np.nan_to_num(np.asarray(heatmap, np.float32))
    side = tuple(4 * n for n in reversed(finite.shape))
    fine = np.asarray(Image.fromarray(finite).resize(side, Image.Resampling.BICUBIC))
    level = np.clip((fine - finite.min()) / max(np.ptp(finite), 1e-12), 0, 1)
    stops = np.linspace(0, 1, len(HEAT))
    colours = [np.interp(level, stops, HEAT[:, channel]) for channel in range(3)]
    pixels = np.stack([*colours, 210 * level**0.8], axis=-1).astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG", optimize=True)
    uri = _data_uri("image/png", encoded.getvalue())

    def draw(width, height):
        size = f'width="{width}" height="{height}"'
        return f'<image {size} preserveAspectRatio="none" href="{uri}"/>'

    return draw


def outline(mask):
    """The closed loops of corner points [(x, y), …] around the pixels of a mask, bool [H, W].

    Loops run with the mask on their right (clockwise around a blob, the other way around a hole);
    corners on a straight line are left out. Where two pixels touch only at a corner the loop turns
    right, which keeps them apart.
    """
    padded = np.pad(mask, 1).astype(np.int8)
    steps = {}  # corner → directions that leave it
    across = np.diff(padded, axis=0)[:, 1:-1]  # [H + 1, W]: between a pixel and the one below
    for y, x in np.argwhere(across == 1):  # mask below: its top edge, walked to the right
        steps.setdefault((x, y), []).append((1, 0))
    for y, x in np.argwhere(across == -1):
        steps.setdefault((x + 1, y), []).append((-1, 0))
    down = np.diff(padded, axis=1)[1:-1]  # [H, W + 1]
    for y, x in np.argwhere(down == 1):  # mask to the right: its left edge, walked up
        steps.setdefault((x, y + 1), []).append((0, -1))
    for y, x in np.argwhere(down == -1):
        steps.setdefault((x, y), []).append((0, 1))

    loops = []
    while steps:
        start = corner = min(steps)
        direction, loop = None, []
        while True:
            leaving = steps[corner]
            right = (-direction[1], direction[0]) if direction else leaving[0]
            step = right if right in leaving else leaving[0]
            leaving.remove(step)
            if not leaving:
                del steps[corner]
            if step != direction:
                loop.append((int(corner[0]), int(corner[1])))
            direction = step
            corner = corner[0] + step[0], corner[1] + step[1]
            if corner == start:
                break
        loops.append(loop)
    return loops


def _cased(attributes, element, style):
    """A shape with a white edge, so that it shows on any photograph."""
    return (
        f'<{element} {attributes} class="casing {style}"/>'
        f'<{element} {attributes} class="shape {style}"/>'
    )


def _data_uri(kind, encoded):
    return f"data:{kind};base64,{base64.b64encode(encoded).decode('ascii')}"
