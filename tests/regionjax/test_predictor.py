"""The predictor: order, packing, padding and placement, with functions that can be worked out."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from regionjax.batch import BatchSpec, Segment
from regionjax.config import ConfigError
from regionjax.decode import GenerationConfig
from regionjax.evaluators.predictor import AHEAD, Predictor, Query, padded
from regionjax.regions import Region

SPEC = BatchSpec(
    image_size=2,
    mask_size=2,
    regions=3,
    points=1,
    prompt_length=4,
    target_length=4,
    text_length=8,
)


@dataclasses.dataclass(eq=False)
class Image:
    value: int


def encode(image, segments, spec, texts_only=False):
    """A row whose image is one number and whose prompts repeat the length of a text."""
    row = {name: field[0] for name, field in spec.zeros(1).items()}
    row["image"][:] = 0 if texts_only else image.value
    for slot, segment in enumerate(segments):
        row["region_box"][slot] = segment.region.bounding_box()
        row["prompt"][slot, : len(segment.prompt)] = len(segment.prompt)
        row["target"][slot, : len(segment.target)] = 1
        row["target_weight"][slot, : len(segment.target)] = 1
    return row


def shown(batch):
    """f32 [B, R]: image · 100 + prompt length · 10 + left edge of the region."""
    image = batch["image"][:, None, 0, 0, 0].astype(jnp.float32)
    return image * 100 + batch["prompt"][:, :, 0] * 10 + batch["region_box"][:, :, 0]


def caption_nll(params, batch):
    # 0/0 in unused slots must stay there
    words = batch["target_weight"].sum(-1)
    return params["scale"] * shown(batch)[..., None] * words / words


def generate(params, batch, rng, *, eos_id, config):
    del params, rng
    tokens = jnp.full((*shown(batch).shape, config.max_new_tokens), eos_id)
    return tokens.at[:, :, 0].set(shown(batch).astype(jnp.int32))


def heatmap(params, batch):
    return jnp.broadcast_to(shown(batch)[..., None, None], (*shown(batch).shape, 2, 5))


def predictor(devices=8, batch_size=8, functions=None, answers=None, spec=SPEC):
    mesh = jax.make_mesh(
        (devices // 2 or 1, 2 if devices > 1 else 1, 1),
        ("data", "fsdp", "tensor"),
        axis_types=(AxisType.Auto,) * 3,
        devices=jax.devices()[:devices],
    )
    return Predictor(
        functions or {"caption_nll": caption_nll, "generate": generate, "heatmap": heatmap},
        jax.device_put({"scale": np.float32(2)}, NamedSharding(mesh, PartitionSpec())),
        spec=spec,
        encode=encode,
        decode=lambda ids: f"{ids[0]} then {ids[1]}",
        eos_id=7,
        batch_size=batch_size,
        sharding=NamedSharding(mesh, PartitionSpec(("data", "fsdp"))),
        answers=answers,
    )


def queries(counts):
    """`counts[n]` questions about image n, and what `shown` makes of each."""
    asked, expected = [], []
    for value, count in enumerate(counts):
        image = Image(value)
        for number in range(count):
            region = Region.from_box((number / 16, 0, 1, 1))
            asked.append(Query(image, Segment(region, "?" * (number % 5)), ("abc",)))
            expected.append(value * 100 + number % 5 * 10 + number / 16)
    return asked, np.array(expected, np.float32)


@pytest.mark.parametrize("devices", [1, 8])
def test_answers_come_back_in_order(devices):
    asked, expected = queries([1, 7, 3, 0, 4] * 12)
    found = predictor(devices).caption_nll(asked, 1)
    np.testing.assert_array_equal(found, 2 * expected[:, None])


def test_questions_of_an_image_share_rows_and_everything_is_counted():
    asked, _ = queries([1, 7, 3, 0, 4])  # 1 + 3 + 1 + 0 + 2 rows of at most 3 questions
    model = predictor(batch_size=8)
    model.heatmap(asked)
    tally = model.tallies["heatmap"]
    assert (tally.queries, tally.rows, tally.batches) == (15, 7, 1)
    model.heatmap(asked * 2)  # the last image of the first half is not the first of the second
    assert (tally.queries, tally.rows, tally.batches) == (45, 21, 3)
    assert tally.seconds > 0


def test_one_shape_is_compiled_once():
    traced = []

    def counting(params, batch):
        traced.append(batch["image"].shape)
        return caption_nll(params, batch)

    model = predictor(functions={"caption_nll": counting})
    model.caption_nll(queries([2] * 8 * (AHEAD + 3))[0], 1)
    model.caption_nll(queries([2])[0], 1)
    assert traced == [(8, 2, 2, 3)]


def test_texts_are_decoded():
    asked, expected = queries([2, 1])
    texts = predictor().generate(asked, GenerationConfig(max_new_tokens=2))
    assert texts == [f"{int(value)} then 7" for value in expected]


def test_heatmaps_keep_their_shape_and_may_be_asked_lazily():
    asked, expected = queries([4, 4])
    found = predictor().heatmap(query for query in asked)
    assert found.shape == (8, 2, 5)
    np.testing.assert_array_equal(found[:, 1, 4], expected)


@pytest.mark.parametrize(("together", "shape"), [(6, (8, 6)), (1, (16, 1)), (100, (4, 100))])
def test_an_image_can_share_more_of_its_questions(together, shape):
    """As many slots a batch as ever (16 rows of 3), in whole shares of the four devices."""
    traced = []

    def noting(params, batch):
        traced.append(batch["prompt"].shape[:2])
        return caption_nll(params, batch)

    asked, expected = queries([1, 7, 13, 2, 5])
    model = predictor(4, 16, {"caption_nll": noting})
    np.testing.assert_array_equal(model.caption_nll(asked, 1, together)[:, 0], 2 * expected)
    assert {*traced} == {shape}
    rows = sum(-(-count // together) for count in (1, 7, 13, 2, 5))
    assert model.tallies["caption_nll"].rows == rows


def lengths(params, batch):
    """As many as the words of a text and of the prompt, and 100 for the room it has."""
    words = batch["target_weight"].sum(-1)
    return words + batch["prompt"][:, :, :1] * 10 + 100 * batch["target"].shape[-1]


def about(record, texts, prompt=""):
    return Query(record, Segment(Region.from_box((0, 0, 1, 1)), prompt), texts)


def test_texts_share_a_region_and_have_no_more_room_than_they_need():
    """Two texts a query; with 8 texts to an encoding, so four slots; 3 of 8 words are 4 of 8."""
    traced = []

    def noting(params, batch):
        traced.append(batch["target"].shape)
        return lengths(params, batch)

    spec = dataclasses.replace(SPEC, target_length=8, text_length=12)
    model = predictor(1, 4, {"caption_nll": noting}, spec=spec)
    first, second = Image(0), Image(1)
    asked = [about(first, ("a", "abc")), about(first, ("ab",), "??"), about(second, ("abc", "a"))]
    found = model.caption_nll(asked, 2, 8)
    np.testing.assert_array_equal(found[[0, 2]], [[401, 403], [403, 401]])
    assert found[1, 0] == 422
    assert {*traced} == {(1, 4, 2, 4)}
    assert model.tallies["caption_nll"].rows == 2
    assert model.caption_nll([], 2).shape == (0, 2)


def test_prompts_have_no_more_room_than_they_need():
    traced = []

    def noting(params, batch):
        traced.append(batch["prompt"].shape[-1])
        return lengths(params, batch)

    model = predictor(1, 1, {"caption_nll": noting})
    image = Image(0)
    for prompt in ("", "?", "??", "???", "????"):
        found = model.caption_nll([about(image, ("a",), prompt)], 1)
        assert found == 101 + 10 * len(prompt)
    assert traced == [1, 2, 4]
    rooms = [padded(tokens, 10) for tokens in (0, 1, 2, 3, 4, 5, 6, 10)]
    assert rooms == [1, 1, 2, 3, 5, 5, 10, 10]
    assert [padded(tokens, 1) for tokens in (0, 1)] == [1, 1]


def test_there_may_be_no_prompts_at_all():
    spec = dataclasses.replace(SPEC, prompt_length=0, text_length=4)
    said = {"caption_nll": lambda params, batch: batch["target_weight"].sum(-1)}
    model = predictor(1, 4, said, spec=spec)
    np.testing.assert_array_equal(model.caption_nll([about(Image(0), ("a", "abc"))], 2), [[1, 3]])


def test_what_is_compared_is_computed_in_the_same_shapes():
    """Long texts of one image change nothing for the short ones of the other."""
    spec = dataclasses.replace(SPEC, target_length=8, text_length=12)
    model = predictor(1, 4, {"caption_nll": lengths}, spec=spec)
    first, second = Image(0), Image(1)
    asked = [about(first, ("a",)), about(first, ("abcde",)), about(second, ("a",))]
    np.testing.assert_array_equal(model.caption_nll(asked, 1)[:, 0], [801, 805, 801])
    found = model.caption_nll(asked, 1, compared=True)[:, 0]
    np.testing.assert_array_equal(found, [101, 805, 101])


def test_no_questions():
    assert len(predictor().caption_nll([], 1)) == 0


def test_batch_size_must_suit_the_mesh():
    with pytest.raises(ConfigError, match="batch_size = 12 .* 8 shards .*data, fsdp; use 16"):
        predictor(batch_size=12)
