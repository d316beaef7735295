"""Charts for the report, as inline SVG: a score with its interval, and curves over steps.

Colours come from the classes in page.css.
"""

import html
import math

import numpy as np

COLOURS = 6  # classes series-0 … series-5


def number(value):
    """A coordinate with at most three decimals: 12.5 → "12.5", 3.0 → "3"."""
    return f"{float(value):.3f}".rstrip("0").rstrip(".")


def bar(value, low, high, baseline, top):
    """A score on a scale from 0 to `top`: a bar, its interval, and a mark at the baseline."""
    width, height = 240, 22

    def at(score):
        return number(min(max(score / top, 0), 1) * width)

    whisker = f"M{at(low)} 11H{at(high)}M{at(low)} 7V15M{at(high)} 7V15"

    mark = ""
    if baseline is not None:
        mark = f'<path class="baseline" d="M{at(baseline)} 1V{height - 1}"/>'
    return (
        f'<svg class="bar" viewBox="-3 0 {width + 6} {height}" aria-hidden="true">'
        f'<rect class="track" y="5" width="{width}" height="12" rx="3"/>'
        f'<rect class="fill" y="5" width="{at(value)}" height="12" rx="3"/>{mark}'
        f'<path class="interval" d="{whisker}"/>'
        "</svg>"
    )


def pair(score, than, top):
    """Two scores with their intervals on one scale from 0 to `top`, the first above the second.

    Args:
      score, than: (value, low, high).
    """
    width, height = 240, 34

    def at(value):
        return number(min(max(value / top, 0), 1) * width)

    drawn = ""
    for y, style, (value, low, high) in ((9, "first", score), (25, "second", than)):
        drawn += (
            f'<rect class="track" y="{y - 5}" width="{width}" height="10" rx="3"/>'
            f'<rect class="fill {style}" y="{y - 5}" width="{at(value)}" height="10" rx="3"/>'
            f'<path class="interval" d="M{at(low)} {y}H{at(high)}M{at(low)} {y - 4}v8'
            f'M{at(high)} {y - 4}v8"/>'
        )
    return f'<svg class="bar" viewBox="-3 0 {width + 6} {height}" aria-hidden="true">{drawn}</svg>'


def curves(series, title, *, logarithmic=False, smooth=True, size=(480, 250)):
    """A line chart over training steps.

    Args:
      series: {name: (steps [n], values [n])}; values that are not finite are left out.
      logarithmic: the vertical axis, used only if all values are above 0.
      smooth: draw the measurements faint and their running mean on top.

    Returns:
      A figure with axes and, for several lines, a legend; "" if there is nothing to draw.
    """
    finite = {}
    for name, (steps, values) in series.items():
        steps, values = np.asarray(steps, float), np.asarray(values, float)
        kept = np.isfinite(values)
        if kept.any():
            finite[name] = steps[kept], values[kept]
    if not finite:
        return ""
    everything = np.concatenate([values for _, values in finite.values()])
    logarithmic = logarithmic and everything.min() > 0
    last = max(steps.max() for steps, _ in finite.values()) or 1
    width, height = size
    left, right, above, below = 54, 14, 14, 34
    low, high, ticks = _axis(everything, logarithmic)

    def place(steps, values):
        scaled = np.log10(values) if logarithmic else values
        x = left + steps / last * (width - left - right)
        y = above + (high - scaled) / (high - low) * (height - above - below)
        return x, y

    parts = []
    for tick in ticks:
        y = place(np.array(0.0), np.array(tick))[1]
        parts.append(f'<path class="grid" d="M{left} {number(y)}H{width - right}"/>')
        parts.append(
            f'<text x="{left - 8}" y="{number(y + 4)}" class="tick end">{label(tick)}</text>'
        )
    for tick in _nice(0, last, 6):
        x = place(np.array(tick), np.array(10.0**low if logarithmic else low))[0]
        where = f'x="{number(x)}" y="{height - below + 18}"'
        parts.append(f'<text {where} class="tick mid">{label(tick)}</text>')
    for index, (steps, values) in enumerate(finite.values()):
        steps, values = _thinned(steps, values)
        colour = f"series-{index % COLOURS}"
        if smooth:
            parts.append(_line(*place(steps, values), f"raw {colour}"))
        trend = _trend(values) if smooth else values
        parts.append(_line(*place(steps, trend), f"trend {colour}"))
    return _figure(title, finite, "".join(parts), size)


def measured(lines, title, x_name, *, size=(480, 270)):
    """Scores with their intervals against a number.

    Args:
      lines: {name: [(x, value, low, high)]}.
      x_name: what the number is.

    Returns:
      A figure with axes, whiskers and a legend; "" if there is nothing to draw.
    """
    lines = {name: np.array(sorted(points), float) for name, points in lines.items() if points}
    if not lines:
        return ""
    everything = np.concatenate(list(lines.values()))
    width, height = size
    left, right, above, below = 54, 18, 14, 52
    low, high, ticks = _axis(everything[:, 1:].ravel(), False)
    first, last = everything[:, 0].min(), everything[:, 0].max()

    def across(x):
        return left + 10 + (x - first) / ((last - first) or 1) * (width - left - right - 20)

    def up(value):
        return above + (high - value) / (high - low) * (height - above - below)

    parts = []
    for tick in ticks:
        y = number(up(tick))
        parts.append(f'<path class="grid" d="M{left} {y}H{width - right}"/>')
        parts.append(
            f'<text x="{left - 8}" y="{number(up(tick) + 4)}" class="tick end">{label(tick)}</text>'
        )
    for x in np.unique(everything[:, 0]):
        where = f'x="{number(across(x))}" y="{height - below + 18}"'
        parts.append(f'<text {where} class="tick mid">{label(x)}</text>')
    middle = f'x="{number((left + width - right) / 2)}" y="{height - 12}"'
    parts.append(f'<text {middle} class="tick mid">{html.escape(x_name)}</text>')
    for index, points in enumerate(lines.values()):
        # Lines side by side, so that whiskers at one place can be told apart.
        x = across(points[:, 0]) + 5 * (index - (len(lines) - 1) / 2)
        colour = f"series-{index % COLOURS}"
        parts.append(_line(x, up(points[:, 1]), f"trend {colour}"))
        for place, (_, value, bottom, top) in zip(x, points, strict=True):
            at = number(place)
            parts.append(
                f'<path class="trend {colour}" d="M{at} {number(up(bottom))}V{number(up(top))}"/>'
            )
            parts.append(
                f'<circle class="dot {colour}" cx="{at}" cy="{number(up(value))}" r="3.5"/>'
            )
    return _figure(title, lines, "".join(parts), size)


def _figure(title, names, drawn, size):
    """A figure with a caption, and a legend where there are several names."""
    legend = "".join(
        f'<span class="key series-{index % COLOURS}">{html.escape(name)}</span>'
        for index, name in enumerate(names)
    )
    return (
        f'<figure class="chart"><figcaption>{html.escape(title)}'
        f'<span class="legend">{legend if len(names) > 1 else ""}</span></figcaption>'
        f'<svg viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{html.escape(title)}">'
        f"{drawn}</svg></figure>"
    )


def _axis(values, logarithmic):
    """Low and high end (exponents if logarithmic) and the ticks between."""
    if not logarithmic:
        low, high = min(0.0, values.min()), max(0.0, values.max())
        high = high if high > low else 1.0
        return low, high + 0.05 * (high - low), _nice(low, high, 5)
    low, high = np.log10(values.min()), np.log10(values.max())
    low, high = low - 0.03 * (high - low) - 0.01, high + 0.03 * (high - low) + 0.01
    decades = range(math.floor(low), math.ceil(high) + 1)
    steps = (1,) if high - low > 3 else (1, 3) if high - low > 1 else (1, 2, 3, 5, 7)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    return low, high, [tick for tick in ticks if low <= math.log10(tick) <= high]


def _nice(low, high, count):
    """About `count` round numbers from `low` to `high`."""
    raw = (high - low) / count
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(scale * nice for nice in (1, 2, 2.5, 5, 10) if scale * nice >= raw)
    return [step * n for n in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]


def label(value):
    """1500 → 1.5k, 0.00025 → 2.5e-4."""
    if value and abs(value) < 1e-3:
        digits, exponent = f"{value:.1e}".split("e")
        return f"{float(digits):g}e{int(exponent)}"
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:.3g}"


def _thinned(steps, values, count=300):
    """At most `count` points, each the mean of its neighbours."""
    if len(steps) <= count:
        return steps, values
    groups = np.array_split(np.arange(len(steps)), count)
    return tuple(np.array([a[group].mean() for group in groups]) for a in (steps, values))


def _trend(values):
    """Mean over a window of a twentieth of the run, shorter at its ends."""
    half = max(1, len(values) // 40)
    total = np.concatenate([[0], np.cumsum(values)])
    index = np.arange(len(values))
    start, end = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (total[end] - total[start]) / (end - start)


def _line(x, y, style):
    points = " ".join(f"{number(a)},{number(b)}" for a, b in zip(x, y, strict=True))
    return f'<polyline class="{style}" points="{points}"/>'
