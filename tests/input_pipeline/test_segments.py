"""Segments of pixels, on images whose parts are known; and of a model, with random weights."""

import io

import numpy as np
import pytest
from PIL import Image

from input_pipeline import segments
from input_pipeline.errors import DataError
from regionjax.masks import mask_iou


def squares():
    """f64 [20, 30, 3]: a grey page, a red square and a blue one, each 6 a side."""
    pixels = np.full((20, 30, 3), 120.0)
    pixels[3:9, 4:10] = 200, 0, 0
    pixels[10:16, 18:24] = 0, 0, 200
    return pixels


def test_areas_of_one_colour_are_segments():
    labels = segments.joined(squares(), 50.0, 1)
    assert labels.max() == 2
    assert len({labels[0, 0], labels[5, 5], labels[12, 20]}) == 3
    np.testing.assert_array_equal(labels == labels[5, 5], (squares() == (200, 0, 0)).all(-1))


def test_small_segments_join_what_is_most_like_them():
    pixels = squares()
    pixels[5, 7] = 190, 0, 0  # one pixel in the red square
    alone = segments.joined(pixels, 1.0, 1)
    assert (alone == alone[5, 7]).sum() == 1
    labels = segments.joined(pixels, 1.0, 2)
    assert labels[5, 7] == labels[5, 6]
    assert segments.joined(pixels, 1.0, 1000).max() == 0


def test_a_slope_is_one_segment_and_a_step_is_two():
    """Steps of 2 are as large as those inside; one of 40 is not."""
    slope = np.repeat(np.arange(0, 60, 2.0)[None, :, None], 10, axis=0)
    assert segments.joined(slope, 30.0, 1).max() == 0
    slope[:, 15:] += 40
    labels = segments.joined(slope, 30.0, 1)
    assert labels.max() == 1 and (labels[:, 14] != labels[:, 15]).all()


def test_scale_joins_more():
    noise = np.random.default_rng(0).normal(0, 10, (24, 24, 3))
    counts = [segments.joined(noise, scale, 1).max() for scale in (5, 50, 500)]
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1]


def encoded(pixels, size):
    file = io.BytesIO()
    image = Image.fromarray(pixels.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
    image.save(file, "PNG")
    return file.getvalue()


def test_masks_have_the_size_of_the_image():
    data = encoded(squares(), (300, 200))
    masks = segments.of_pixels(data, "x.png")
    assert all(mask.shape == (200, 300) and mask.dtype == bool for mask in masks)
    areas = [mask.mean() for mask in masks]
    assert areas == sorted(areas, reverse=True)
    assert len({mask.tobytes() for mask in masks}) == len(masks)
    for top, left in ((30, 40), (100, 180)):
        truth = np.zeros((200, 300), bool)
        truth[top : top + 60, left : left + 60] = True
        assert max(mask_iou(mask, truth) for mask in masks) > 0.85
    again = segments.of_pixels(data, "x.png")
    assert [mask.tobytes() for mask in again] == [mask.tobytes() for mask in masks]


def test_no_checkpoint(tmp_path):
    with pytest.raises(DataError, match="has no .*safetensors"):
        segments.check_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match="PyTorch and torchvision are needed"):
        segments.check_model(tmp_path)


@pytest.fixture
def model(tmp_path):
    """A tiny SAM 2 with random weights in Hugging Face's form, sure of all that it says."""
    pytest.importorskip("torchvision")
    import torch
    from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model, Sam2VisionConfig

    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "image_size": [64, 64],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
    }
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
        fpn_hidden_size=32,
    )
    config = Sam2Config(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 32, "image_size": 64, "patch_size": 16},
        mask_decoder_config={
            "hidden_size": 32,
            "mlp_dim": 32,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 32,
            "num_hidden_layers": 1,
        },
    )
    torch.manual_seed(0)
    made = Sam2Model(config)
    with torch.no_grad():
        made.mask_decoder.iou_prediction_head.proj_out.bias.fill_(9.0)
        for layers in made.mask_decoder.output_hypernetworks_mlps:
            layers.proj_out.weight.mul_(3e7)
    made.save_pretrained(tmp_path)
    Sam2ImageProcessor(
        size={"height": 64, "width": 64}, mask_size={"height": 16, "width": 16}
    ).save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.mark.torch
def test_masks_of_a_model(model):
    assert len(segments.check_model(model)) == 16
    masks = segments.of_model(encoded(squares(), (60, 40)), "x.png", model)
    assert masks and all(mask.shape == (40, 60) and mask.any() for mask in masks)
    again = segments.of_model(encoded(squares(), (60, 40)), "x.png", model)
    assert [mask.tobytes() for mask in again] == [mask.tobytes() for mask in masks]


def test_masks_of_a_model_are_sorted_and_not_empty(monkeypatch):
    """What a pipeline gives: masks as they come, some of them without a pixel."""
    found = np.zeros((3, 20, 30), bool)
    found[0, :2], found[2, 5:15] = True, True
    seen = []

    def generator(image, points_per_batch):
        seen.append((image.mode, image.size))
        return {"masks": list(found), "scores": [0.9, 0.9, 0.9]}

    monkeypatch.setattr(segments, "_generator", lambda folder: generator)
    masks = segments.of_model(encoded(squares(), (30, 20)), "x.png", "folder")
    np.testing.assert_array_equal(masks, found[[2, 0]])
    assert seen == [("RGB", (30, 20))]
