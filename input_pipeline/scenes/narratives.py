"""Spoken-style narratives: sentences with timed words, and the trace of the hand that points.

The hand circles or hatches the object while its words are said and travels while the speaker
pauses. It trembles, rests, overshoots, leaves the image and comes back. As in the official files,
points may lie up to a tenth outside, a new segment starts where the pointer came back, an
utterance may be two words, a few words lost their time and a few narratives have no trace.
"""

import numpy as np

from input_pipeline.scenes.sentences import spoken, spoken_ground

BAND = 0.1  # how far outside the image points are still recorded
INTERVAL = 0.12  # mean seconds between recorded points
TREMOR = 0.007  # fraction of the image side
TWO_WORDS = 0.04  # share of utterances that are joined with the next word
NO_TIME = 0.01  # share of utterances that lost their time: from 0 to 0, as in the official files
NO_TRACE = 0.002  # share of narratives that lost their trace, as one of COCO's did
GROUND = (0.5, 0.5, 0.55, 0.55)  # x, y, half width, half height of a sweep over everything
WANDERS = 0.1  # share of ways between objects that lead out of the image


def narrate(scene, phrases, rng):
    """One narrative of a scene.

    Returns:
      the Localized Narratives fields `annotator_id`, `caption`, `timed_caption` and `traces`.
    """
    annotator = int(rng.integers(100))
    most = min(len(scene.things), 5)
    order = rng.permutation(len(scene.things))[: rng.integers(2, most + 1)].tolist()
    stroke = _circle if annotator % 2 else _hatch  # a habit
    told = [
        (spoken(scene, phrases, index, place == 0, rng), stroke, _frame(scene, index))
        for place, index in enumerate(order)
    ]
    if rng.random() < 0.5:
        told.append((spoken_ground(scene, rng), _circle, GROUND))
    utterances, times, path = [], [], []
    clock = 0.0
    for sentence, stroke, frame in told:
        start = clock + rng.uniform(0.3, 1.1)
        words, end = _say(sentence + ".", start, rng)
        utterances += words
        ticks = _ticks(start, end, rng)
        drawn = stroke(frame, _progress(len(ticks), rng), rng)
        if path:
            way = _ticks(clock, start, rng)
            times.append(way)
            path.append(_travel(path[-1][-1], drawn[0], len(way), rng))
        times.append(ticks)
        path.append(drawn)
        clock = end
    points = np.concatenate(path)
    points += _tremor(len(points), rng)
    lost = rng.random() < NO_TRACE
    return {
        "annotator_id": annotator,
        "caption": " ".join(word["utterance"] for word in utterances),
        "timed_caption": utterances,
        "traces": [] if lost else _segments(np.concatenate(times), points),
    }


def _frame(scene, index):
    """(x, y, half width, half height) of a thing, normalised."""
    x0, y0, x1, y1 = scene.bounds[index].tolist()
    return (*scene.centres[index], (x1 - x0) / 2 / scene.size, (y1 - y0) / 2 / scene.size)


def _say(sentence, start, rng):
    """Times the words of a sentence from `start`: (utterances, end), seconds.

    Longer words take longer; the next one follows after a short gap.
    """
    words = sentence.split()
    letters = np.array([len(word) for word in words])
    lengths = 0.1 + 0.035 * letters + rng.uniform(0, 0.1, len(words))
    gaps = rng.uniform(0.01, 0.08, len(words))
    starts = start + np.cumsum(lengths + gaps) - lengths - gaps
    ends = starts + lengths
    spans = list(zip(words, starts.tolist(), ends.tolist(), strict=True))
    lots = rng.random(len(words)).tolist()
    utterances = []
    joined = False
    for (word, first, last), lot in zip(spans, lots, strict=True):
        if joined:
            utterances[-1]["utterance"] += f" {word}"
            utterances[-1]["end_time"] = round(last, 3)
        else:
            if lot > 1 - NO_TIME:
                first = last = 0.0
            utterances.append(
                {"utterance": word, "start_time": round(first, 3), "end_time": round(last, 3)}
            )
        joined = lot < TWO_WORDS and not joined
    return utterances, ends[-1]


def _ticks(start, end, rng):
    """f64 [n]: uneven times after `start`, the last one is `end`."""
    gaps = rng.uniform(0.4, 1.6, max(3, round((end - start) / INTERVAL)))
    return start + np.cumsum(gaps) * ((end - start) / gaps.sum())


def _progress(count, rng):
    """f64 [count] from 0 to 1: how far a stroke is done; its speed varies and it rests once."""
    speeds = rng.uniform(0.4, 1.6, count)
    rest = int(rng.integers(count))
    speeds[rest : rest + 3] *= 0.05
    done = np.cumsum(speeds)
    return done / done[-1]


def _circle(frame, progress, rng):
    """Rounds about the middle of the frame, some wider than it; f64 [n, 2]."""
    start, turns, phase = rng.uniform((0, 1.3, 0), (2 * np.pi, 2.6, 2 * np.pi)).tolist()
    turns = min(turns, len(progress) / 9) * (1 if rng.random() < 0.5 else -1)
    angles = start + 2 * np.pi * turns * progress
    reach = rng.uniform(0.6, 0.95) + 0.22 * np.sin(2.3 * angles / turns + phase)
    x, y, width, height = frame
    return np.stack(
        [x + width * reach * np.cos(angles), y + height * reach * np.sin(angles)], axis=1
    )


def _hatch(frame, progress, rng):
    """To and fro across the frame, turning beyond its edge; f64 [n, 2]."""
    lean, strokes, over, phase = rng.uniform((-0.7, 3, 0.85, 0), (0.7, 6, 1.15, np.pi)).tolist()
    across = over * np.sin(np.pi * strokes * progress + phase)
    along = 1.5 * progress - 0.75
    if rng.random() < 0.5:
        across, along = along, across
    x, y, width, height = frame
    cosine, sine = np.cos(lean), np.sin(lean)
    return np.stack(
        [
            x + width * 0.85 * (across * cosine - along * sine),
            y + height * 0.85 * (across * sine + along * cosine),
        ],
        axis=1,
    )


def _travel(start, end, count, rng):
    """A bent way between two points, slow at its ends and a little too far; f64 [count, 2]."""
    bend = 0.5 * (start + end) + rng.normal(0, 0.08, 2)
    if rng.random() < WANDERS:
        bend += np.where(bend < 0.5, -0.9, 0.9) * rng.permutation((1.0, 0.0))
    t = (np.arange(1, count + 1) / (count + 1))[:, None]
    s = t * t * (3 - 2 * t)
    s = s + 0.25 * s * s * (1 - s)  # overshoots before it settles
    return (1 - s) ** 2 * start + 2 * s * (1 - s) * bend + s * s * end


def _tremor(count, rng):
    """f64 [count, 2]: smooth unsteadiness of a hand."""
    noise = rng.normal(0, TREMOR, (count + 2, 2))
    return 0.5 * noise[:-2] + noise[1:-1] + 0.5 * noise[2:]


def _segments(times, points):
    """Lists of {x, y, t}; points beyond the band are not recorded and end a segment."""
    recorded = ((points >= -BAND) & (points <= 1 + BAND)).all(axis=1)
    rows = np.column_stack([np.round(points, 4), np.round(times, 3)])
    starts = np.flatnonzero(np.diff(recorded, prepend=False))
    return [
        [{"x": x, "y": y, "t": t} for x, y, t in run.tolist()]
        for run, keep in zip(np.split(rows, starts), [False, *recorded[starts]], strict=True)
        if keep
    ]
