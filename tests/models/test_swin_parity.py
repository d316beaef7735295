"""Swin against transformers' SwinModel and SwinBackbone, on random tiny models."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from parity import close, divergence, parameters, randomise, saved  # noqa: E402
from transformers import (  # noqa: E402
    SwinBackbone,
    SwinForImageClassification,
    SwinModel,
)
from transformers import SwinConfig as TheirConfig  # noqa: E402

from regionjax.models import swin  # noqa: E402
from regionjax.weights import table  # noqa: E402
from regionjax.weights.tables import swin as swin_table  # noqa: E402

pytestmark = pytest.mark.torch

# (settings of theirs, image height and width). The first map is 8×8 and the second 4×4, one window;
# the second's maps are 7×9 → 4×5 → 2×3 with windows of 2 and an image that patches do not divide;
# the third's windows of 3 fill up on both sides, in all of four stages.
MODELS = {
    "one_window_at_the_end": (
        dict(embed_dim=12, depths=[2, 4], num_heads=[1, 3], window_size=4, patch_size=4),
        (32, 32),
    ),
    "odd_maps": (
        dict(
            embed_dim=10,
            depths=[2, 2, 2],
            num_heads=[5, 2, 4],
            window_size=2,
            patch_size=3,
            mlp_ratio=2.5,
        ),
        (20, 26),
    ),
    "four_stages": (
        dict(
            embed_dim=6,
            depths=[2, 2, 4, 2],
            num_heads=[1, 2, 3, 6],
            window_size=3,
            patch_size=2,
            mlp_ratio=3.0,
        ),
        (34, 46),
    ),
}


def pixels(image, config):
    """What the reference gets: normalised, channels first."""
    values = (image / 255 - np.array(config.mean)) / np.array(config.std)
    return torch.from_numpy(values.astype(np.float32)).permute(0, 3, 1, 2)


def imported(config, tensors, image, rows=swin_table.rows):
    shapes = jax.eval_shape(swin.Swin(config).init, jax.random.key(0), image)["params"]
    return table.to_ours(tensors, rows(config), shapes)


def ours(config, params, image, dtype=jnp.float32):
    """Features [B, h, w, D] and intermediates."""
    return jax.jit(swin.Swin(config, dtype).apply)({"params": params}, image)


@pytest.fixture(scope="module", params=MODELS)
def pair(request, tmp_path_factory):
    settings, size = MODELS[request.param]
    theirs = TheirConfig(image_size=size[0], **settings)
    config = swin_table.config_from(theirs.to_dict())
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (2, *size, 3), dtype=np.uint8)
    model = randomise(SwinModel(theirs))
    tensors = saved(model, tmp_path_factory.mktemp("swin"))
    return model, config, tensors, imported(config, tensors, image), image


def test_hidden_states_of_every_layer(pair):
    model, config, _, params, image = pair
    layers = []
    hooks = [
        block.register_forward_hook(lambda module, x, out: layers.append(out[0].numpy()))
        for stage in model.encoder.layers
        for block in stage.blocks
    ]
    with torch.no_grad():
        expected = model(
            pixels(image, config),
            output_hidden_states=True,
            output_hidden_states_before_downsampling=True,
        )
    for hook in hooks:
        hook.remove()
    features, intermediates = ours(config, params, image)
    close(features.reshape(2, -1, features.shape[-1]), expected.last_hidden_state)
    embedding, *stages = expected.reshaped_hidden_states
    close(intermediates["embedding"], embedding.permute(0, 2, 3, 1))
    assert len(intermediates["stages"]) == len(stages) == len(config.depths)
    for got, state in zip(intermediates["stages"], stages, strict=True):
        close(got, state.permute(0, 2, 3, 1))
    hidden = [layer for stage in intermediates["hidden"] for layer in stage]
    assert len(hidden) == len(layers) == sum(config.depths)
    for got, state in zip(hidden, layers, strict=True):
        close(got.reshape(state.shape), state)


def test_the_maps_of_the_detection_backbone(pair):
    """There windows always shift, and maps may be smaller than a window."""
    model, config, _, params, image = pair
    theirs = TheirConfig(**model.config.to_dict())
    theirs.out_features = theirs.stage_names[1:]
    backbone = SwinBackbone(theirs).eval()
    missing = backbone.swin.load_state_dict(model.state_dict(), strict=False).missing_keys
    assert not missing
    backbone.hidden_states_norms = torch.nn.ModuleDict(
        {stage: torch.nn.Identity() for stage in theirs.out_features}
    )
    image = image[:, : 2 * image.shape[1] // 3]  # wider than high
    with torch.no_grad():
        expected = backbone(pixels(image, config)).feature_maps
    config = dataclasses.replace(config, always_shift=True)
    _, intermediates = ours(config, params, image)
    assert len(expected) == len(config.depths)
    for got, feature in zip(intermediates["stages"], expected, strict=True):
        close(got, feature.permute(0, 2, 3, 1))


def test_another_size_than_the_weights_were_trained_at(pair):
    model, config, _, params, image = pair
    image = np.concatenate([image, image[:, :, ::-1][:, :, :9]], axis=2)
    with torch.no_grad():
        expected = model(pixels(image, config)).last_hidden_state
    features, _ = ours(config, params, image)
    close(features.reshape(expected.shape), expected)


def test_there_and_back_is_bit_exact(pair):
    _, config, tensors, params, _ = pair
    back = table.to_theirs(params, swin_table.rows(config))
    assert set(back) == set(tensors)
    for name, tensor in tensors.items():
        assert back[name].shape == tensor.shape and back[name].tobytes() == tensor.tobytes(), name


def test_bfloat16(pair):
    """Features have no logits; a random head makes some."""
    model, config, _, params, image = pair
    with torch.no_grad():
        expected = model(pixels(image, config)).last_hidden_state.numpy()
    features = ours(config, params, image, jnp.bfloat16)[0].reshape(expected.shape)
    width = expected.shape[-1]
    head = np.random.default_rng(3).normal(size=(width, 10)) * 2 * width**-0.5
    assert divergence(np.float32(features) @ head, expected @ head) <= 0.01


def test_a_classifier_gives_its_tower_and_config(tmp_path):
    settings, size = MODELS["one_window_at_the_end"]
    theirs = TheirConfig(image_size=size[0], **settings)
    model = randomise(SwinForImageClassification(theirs))
    tensors = saved(model, tmp_path)
    tensors["swin.encoder.layers.0.blocks.1.attention.self.relative_position_index"] = np.zeros(1)
    config = swin_table.config_from(theirs.to_dict())
    image = np.random.default_rng(0).integers(0, 256, (1, *size, 3), dtype=np.uint8)
    params = imported(config, tensors, image, swin_table.classifier_rows)
    features, _ = ours(config, params, image)
    with torch.no_grad():
        expected = model.swin(pixels(image, config)).last_hidden_state
    close(features.reshape(expected.shape), expected)
    assert swin_table.config_from(swin_table.config_to(config)) == config


@pytest.mark.parametrize("name", swin.PRESETS)
def test_presets_have_the_published_number_of_parameters(name):
    config = swin.PRESETS[name]
    with torch.device("meta"):
        model = SwinModel(TheirConfig(**swin_table.config_to(config)))
    image = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), np.uint8)
    shapes = jax.eval_shape(swin.Swin(config).init, jax.random.key(0), image)["params"]
    assert parameters(shapes) == sum(p.numel() for p in model.parameters())
