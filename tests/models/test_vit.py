"""ViT against what transformers once said (golden file), and what needs no reference."""

import dataclasses

import jax
import numpy as np
import pytest
import vit_reference as reference
from parity import close

from regionjax import flops, grid, tables
from regionjax.models import vit
from regionjax.weights import table
from regionjax.weights.tables import vit as vit_table

TINY = vit.ViTConfig(8, 4, width=12, depth=2, heads=3, mlp_width=16)
IMAGE = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize("model_type", vit_table.CLASSES)
def test_golden(model_type):
    values, tensors, seen = reference.read_golden(model_type)
    config = vit_table.config_from(values)
    rows = vit_table.rows(config, model_type)
    network, params = reference.ours(config, tensors, rows)
    for image, features, pooled in seen:
        got, intermediates = network(image)
        close(got, features)
        if config.attention_pool:
            close(intermediates["pooled"], pooled)
    back = table.to_theirs(params, rows)
    assert {name: value.tobytes() for name, value in back.items()} == {
        name: value.tobytes() for name, value in tensors.items()
    }


def initialise(config, image=IMAGE):
    """A compiled ViT and random variables."""
    network, rng = vit.ViT(config), np.random.default_rng(0)
    shapes = jax.eval_shape(network.init, jax.random.key(0), image)
    variables = jax.tree.map(lambda x: np.float32(0.3 * rng.normal(size=x.shape)), shapes)
    return jax.jit(network.apply), variables


def test_remat_and_unroll_change_nothing():
    """Outputs and gradients, with the hidden states asked for or not."""
    config = dataclasses.replace(TINY, depth=3)
    _, variables = initialise(config)

    def loss(config, keep):
        def total(variables):
            features, more = vit.ViT(config).apply(variables, IMAGE, keep_hidden=keep)
            assert ("hidden" in more) == keep
            return (features**2 + 3 * more["embedding"]).sum()

        return jax.jit(jax.value_and_grad(total))(variables)

    other = dataclasses.replace(config, remat="matmuls", unroll=3)
    (a, first), (b, second) = loss(config, False), loss(other, True)
    np.testing.assert_allclose(a, b, rtol=1e-6)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), first, second)


def test_pixels_are_normalised_by_channel():
    config = dataclasses.replace(TINY, mean=(0.1, 0.5, 0.9), std=(0.2, 0.5, 1.0))
    network, variables = initialise(config)
    variables["params"]["patch_embedding"]["kernel"] = np.eye(48)[:, :12]  # the first four pixels
    variables["params"]["position_embedding"] *= 0
    variables["params"]["patch_embedding"]["bias"] *= 0
    got = network(variables, IMAGE)[1]["embedding"][:, 0].reshape(2, 4, 3)
    expected = (IMAGE[:, 0, :4] / 255 - np.array(config.mean)) / np.array(config.std)
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("border", [0, 1])
def test_the_stem_is_two_strided_convolutions(border):
    config = dataclasses.replace(
        TINY, patch_size=8, stem_width=6, patch_border=border, interpolation="bicubic"
    )
    image = np.random.default_rng(1).integers(0, 256, (2, 16, 24, 3), dtype=np.uint8)
    network, variables = initialise(config, image)
    params = variables["params"]
    params["position_embedding"] *= 0
    x = np.float32(image) / 127.5 - 1
    for name, channels in (("stem_in", 3), ("stem_out", 3)):
        kernel = params[name]["kernel"].reshape(4, 4, channels, -1)
        x = jax.lax.conv_general_dilated(
            x, kernel, (2, 2), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.gelu(x + params[name]["bias"])
    kernel = params["patch_embedding"]["kernel"].reshape(2 + 2 * border, 2 + 2 * border, 6, -1)
    x = jax.lax.conv_general_dilated(
        x, kernel, (2, 2), [(border, border)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = (x + params["patch_embedding"]["bias"]).reshape(2, 6, -1)
    close(network(variables, image)[1]["embedding"], x)


def test_bicubic_weights_by_hand():
    # Twice as fine: samples lie a quarter before and behind each cell's middle.
    near, at, far, last = -0.10546875, 0.87890625, 0.26171875, -0.03515625
    assert near + at + far + last == 1
    got = grid.bicubic_weights(8, 4)
    np.testing.assert_array_equal(got[3], np.float32([near, at, far, last]))
    np.testing.assert_array_equal(got[4], np.float32([last, far, at, near]))
    np.testing.assert_array_equal(got[0], np.float32([last + far + at, near, 0, 0]))
    for size, bins in [(5, 5), (9, 4), (2, 7)]:
        for weights in (grid.bicubic_weights, grid.bilinear_weights):
            np.testing.assert_allclose(weights(size, bins).sum(-1), 1, atol=1e-6)
            np.testing.assert_array_equal(weights(bins, bins), np.eye(bins))


def test_bilinear_weights_average_when_shrinking():
    # One cell of two: the triangle is two cells wide to each side of the middle.
    np.testing.assert_allclose(grid.bilinear_weights(2, 4)[0], np.array([3, 3, 1, 0]) / 7)
    np.testing.assert_allclose(grid.bilinear_weights(4, 2)[:2], [[1, 0], [0.75, 0.25]])


def test_what_is_beyond_the_last_whole_patch_is_not_seen():
    config = dataclasses.replace(TINY, image_size=11)
    image = np.pad(IMAGE, [(0, 0), (0, 3), (0, 3), (0, 0)])
    network, variables = initialise(config, image)
    assert variables["params"]["position_embedding"].shape == (4, 12)
    before = network(variables, image)[0]
    image[:, 8:], image[:, :, 8:] = 77, 99
    np.testing.assert_array_equal(network(variables, image)[0], before)


@pytest.mark.parametrize(
    "changes, shape, message",
    [
        ({}, (1, 8, 12, 3), r"image is \[1, 8, 12, 3\], expected \[B, 8, 8, 3\]; interpolation="),
        ({"interpolation": "bicubic"}, (1, 3, 12, 3), r"at least one patch of 4"),
        ({"interpolation": "bicubic"}, (1, 8, 8, 1), r"expected \[B, H, W, 3\]"),
    ],
)
def test_images_that_do_not_fit_are_refused(changes, shape, message):
    with pytest.raises(ValueError, match=message):
        initialise(dataclasses.replace(TINY, **changes), np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"activation": "gelu_tan"}, "did you mean `gelu_tanh`"),
        ({"interpolation": "bicubik"}, "did you mean `bicubic`"),
        ({"remat": "some"}, "remat='some'"),
        ({"heads": 5}, "width 12 is not a multiple of heads 5"),
        ({"image_size": 3}, "image_size 3 is less than one patch of 4"),
        ({"std": (1.0, 0.0, 1.0)}, "std > 0"),
        ({"patch_size": 6, "stem_width": 4}, "patch_size 6 a multiple of the stem's 4 pixels"),
        ({"stem_width": 5}, "stem_width 5 must be even"),
        ({"patch_border": 1}, "patch_border 1 must be at least 0; above, it needs a stem_width"),
        ({"patch_size": 8, "stem_width": 4, "patch_border": -1}, "patch_border -1 must be"),
    ],
)
def test_configs_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"model_type": "siglip_vision"}, "did you mean `siglip_vision_model`"),
        ({"model_type": "vit", "hidden_act": "mish"}, "hidden_act 'mish'"),
        ({"model_type": "vit", "qkv_bias": False}, "qkv_bias = False; here it is always True"),
        ({"model_type": "deit", "image_size": [224, 192]}, "image_size = .*; here it is one num"),
    ],
)
def test_config_files_that_are_no_vit(values, message):
    with pytest.raises(table.WeightsError, match=message):
        vit_table.config_from(values)


def test_a_preprocessor_says_what_pixels_are():
    processor = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    config = vit_table.config_from({"model_type": "vit"}, processor)
    assert config == vit.PRESETS["deit-base-patch16-224"]


@pytest.mark.parametrize("name", [None, *vit.PRESETS])
def test_every_parameter_has_a_sharding_rule_and_every_rule_a_parameter(name):
    config = vit.PRESETS[name] if name else dataclasses.replace(TINY, stem_width=4)
    image = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), np.uint8)
    shapes = jax.eval_shape(vit.ViT(config).init, jax.random.key(0), image)["params"]
    flat = tables.flatten(shapes)
    found = tables.lookup(vit.SHARDING_RULES, flat, "ViT")
    assert all(len(found[path]) <= len(leaf.shape) for path, leaf in flat.items())
    whole = sum(leaf.size for path, leaf in flat.items() if not any(found[path]))
    assert whole < 0.01 * sum(leaf.size for leaf in flat.values()) or name is None


def test_flops_with_tokens_before_the_patches():
    """Against the compiler's count; it adds what is no product."""
    tokens = {"class_token": True, "distillation_token": True, "interpolation": "bicubic"}
    config = dataclasses.replace(TINY, width=192, mlp_width=384, unroll=2, **tokens)
    network = vit.ViT(config)
    image = jax.ShapeDtypeStruct((1, 24, 24, 3), np.uint8)
    variables = jax.eval_shape(network.init, jax.random.key(0), image)
    forward = jax.jit(lambda variables, image: network.apply(variables, image)[0])
    counted = forward.lower(variables, image).cost_analysis()["flops"]
    ours = flops.vit(config, 24, "vit", "params/").forward
    assert ours < counted < 1.03 * ours


def test_positions_start_as_waves_of_both_coordinates():
    config = dataclasses.replace(TINY, class_token=True, image_size=16, width=12)  # 4×4 patches
    params = vit.ViT(config).init(jax.random.key(0), np.zeros((1, 16, 16, 3), np.uint8))["params"]
    table = np.asarray(params["position_embedding"])
    assert table.shape == (17, 12) and np.abs(table[0]).max() < 0.1
    square = table[1:].reshape(4, 4, 12) / vit.WAVE  # [row, column, width]
    # Three wavelengths: 2 patches, √32 and 16; x in the first half, y in the second.
    for index, length in enumerate((2, 32**0.5, 16)):
        wave = np.sin(2 * np.pi * (np.arange(4) + 0.5) / length)
        np.testing.assert_allclose(square[2, :, index], wave, atol=1e-6)
        np.testing.assert_allclose(square[:, 1, 6 + index], wave, atol=1e-6)
        np.testing.assert_allclose(square[0, :, 3 + index] ** 2, 1 - wave**2, atol=1e-6)
