"""Which features of a TFDS dataset are its texts and boxes; how their values are taken out."""

import dataclasses

import numpy as np
import tensorflow_datasets as tfds

from input_pipeline.errors import DataError
from regionjax.config import nearest

# Role: where ref_coco, coco_captions, coco and datasets of the same form have it.
KNOWN = {
    "captions": "captions/text",
    "boxes": "objects/bbox",
    "masks": "objects/mask",
    "labels": "objects/label",
    "expressions": "objects/refexp/raw",
}
_TYPES = {"boxes": tfds.features.BBoxFeature}
_TYPES |= dict.fromkeys(("image", "masks"), tfds.features.Image)
_OF_BOXES = ("masks", "labels", "expressions")
_TEXTS = ("captions", "labels", "expressions", "questions")


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A feature that holds values, not other features.

    Attributes:
      keys: how to reach its value in an example: example[keys[0]][keys[1]]…
      depth: of lists in the value; 0 for a single one.
      feature: the TFDS feature.
    """

    keys: tuple
    depth: int
    feature: object

    @property
    def path(self):
        """As the user writes it."""
        return "/".join(self.keys)

    def value(self, example):
        """Its value in an example."""
        for key in self.keys:
            example = example[key]
        return example


def leaves(features):
    """{path: Leaf} of all features."""
    return {leaf.path: leaf for leaf in _leaves(features, (), 0)}


def _leaves(feature, keys, depth):
    if isinstance(feature, tfds.features.FeaturesDict):
        for key, part in feature.items():
            yield from _leaves(part, (*keys, key), depth)
    elif isinstance(feature, tfds.features.Sequence):
        yield from _leaves(feature.feature, keys, depth + 1)
    else:
        yield Leaf(keys, depth, feature)


def as_stored(feature):
    """Decoders that leave every feature as it is stored: an image stays the bytes of its file."""
    if isinstance(feature, tfds.features.FeaturesDict):
        return {key: as_stored(part) for key, part in feature.items()}
    if isinstance(feature, tfds.features.Sequence):
        return as_stored(feature.feature)
    return _AsStored()


class _AsStored(tfds.decode.SkipDecoding):
    """SkipDecoding that works inside sequences too."""

    def decode_batch_example_np(self, values):
        return values

    def decode_ragged_example_np(self, values):
        return values


def roles(features, given, where):
    """Which feature plays which role.

    Args:
      features: of the dataset.
      given: {role: path}, what the user says. If it names a text or boxes, nothing is guessed.
      where: the dataset, for errors.

    Returns:
      {role: Leaf}, among them `image`; for a text also `ROLE_id` and for boxes `crowds` if there.

    Raises:
      DataError: no such feature, one of another type or shape, or no texts at all.
    """
    found = leaves(features)
    chosen = dict(given)
    if not given.keys() - {"image", "image_id"}:
        chosen |= {role: path for role, path in KNOWN.items() if _fits(role, found.get(path))}
    chosen.setdefault("image", "image")
    if "image/id" in found:
        chosen.setdefault("image_id", "image/id")
    for role, path in chosen.items():
        if path not in found:
            raise DataError(f"{where} has no feature {path}{nearest(path, found)}; {_list(found)}")
        if not _fits(role, found[path]):
            kind = type(found[path].feature).__name__
            raise DataError(f"{where}: {path} is a {kind}, which cannot be `{role}`")
    if not any(role in chosen for role in _TEXTS):
        raise DataError(
            f"{where} has no features that are known to be texts; name one, such as "
            f"`--set captions=…`. {_list(found)}"
        )
    result = {role: found[path] for role, path in chosen.items()}
    _check(result, where)
    for role in set(result) & set(_TEXTS):
        if sibling := _identifier(result[role], found):
            result[f"{role}_id"] = sibling
    if "boxes" in result:
        crowds = found.get("/".join((*result["boxes"].keys[:-1], "is_crowd")))
        if crowds and crowds.depth == result["boxes"].depth:
            result["crowds"] = crowds
    return result


def _fits(role, leaf):
    """Whether a feature is of a type that a role can have."""
    if leaf is None:
        return False
    if role in _TYPES:
        return isinstance(leaf.feature, _TYPES[role])
    if role == "labels" and isinstance(leaf.feature, tfds.features.ClassLabel):
        names = leaf.feature.names or []
        return names != [str(number) for number in range(len(names))]  # TFDS's names of no names
    text = leaf.feature.shape == () and leaf.feature.np_dtype in (np.str_, np.object_)
    number = leaf.feature.shape == () and np.issubdtype(leaf.feature.np_dtype, np.integer)
    return text or (role == "image_id" and number)


def _check(result, where):
    """Raises DataError if features do not go together."""
    for role, partner in [(role, "boxes") for role in _OF_BOXES] + [
        ("questions", "answers"),
        ("answers", "questions"),
    ]:
        if role in result and partner not in result:
            raise DataError(f"{where}: `{role}` needs `{partner}`")
    boxes = result["boxes"].depth if "boxes" in result else 0
    depths = {
        "image": (0,),
        "image_id": (0,),
        "masks": (boxes,),
        "labels": (boxes,),
        "expressions": (boxes, boxes + 1),
    }
    for role, leaf in result.items():
        if leaf.depth not in depths.get(role, (0, 1)):
            raise DataError(
                f"{where}: {leaf.path} is {leaf.depth} lists deep, `{role}` may be "
                f"{' or '.join(map(str, depths.get(role, (0, 1))))}"
            )


def _identifier(leaf, found):
    """The Leaf of the identifiers beside a text in its sequence; None if there are none."""
    if len(leaf.keys) < 2:
        return None
    for other in found.values():
        beside = other.keys[:-1] == leaf.keys[:-1] and other.depth == leaf.depth
        if beside and (other.keys[-1] == "id" or other.keys[-1].endswith("_id")):
            return other
    return None


def _list(found):
    return f"its features are {', '.join(sorted(found))}"
