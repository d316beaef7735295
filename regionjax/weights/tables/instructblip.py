"""BLIP-2 and InstructBLIP with a T5: `Blip2ForConditionalGeneration`, `InstructBlipFor…`."""

from regionjax.config import nearest
from regionjax.models.instructblip import InstructBlipConfig
from regionjax.weights.table import Row, WeightsError, prefixed
from regionjax.weights.tables import bert, t5, vit

# By model_type in config.json: the class, and the model_types of its parts.
KINDS = {
    "blip-2": ("Blip2ForConditionalGeneration", "blip_2_vision_model", "blip_2_qformer"),
    "instructblip": (
        "InstructBlipForConditionalGeneration",
        "instructblip_vision_model",
        "instructblip_qformer",
    ),
}
LANGUAGE = "language_model."
IMAGE_TOKEN = 32100  # the first number that T5's tokeniser does not use


def rows(config):
    """The table of an InstructBlipConfig."""
    _, vision, _ = KINDS[_model_type(config)]
    return (
        *prefixed(vit.rows(config.vit, vision), "vision_model.", "vit/"),
        Row("query_tokens", "qformer/query_tokens", shape=(1, -1, config.qformer.width)),
        *prefixed(bert.rows(config.qformer), "qformer.", "qformer/"),
        Row("language_projection.weight", "projection/kernel", "linear"),
        Row("language_projection.bias", "projection/bias"),
        *prefixed(t5.rows(config.t5), LANGUAGE, "t5/"),
    )


def _model_type(config):
    return "instructblip" if config.qformer.vocabulary else "blip-2"


def config_from(values, names=(), processor=None):
    """InstructBlipConfig of a config.json.

    Args:
      values: the dictionary in it.
      names: of the checkpoint's tensors, if known; see tables/t5.py.
      processor: of a preprocessor_config.json; see tables/vit.py.

    Raises:
      WeightsError: another model, or one whose language model is no T5.
    """
    model_type = values.get("model_type")
    if model_type not in KINDS:
        raise WeightsError(f"config.json: model_type {model_type!r}{nearest(model_type, KINDS)}")
    _, vision, qformer = KINDS[model_type]
    language = values["text_config"]
    if language.get("model_type") != "t5":
        raise WeightsError(
            f"config.json: text_config.model_type is {language.get('model_type')!r}; "
            f"the language model of {model_type} here is a t5"
        )
    tower = vit.config_from({"model_type": vision, **values["vision_config"]}, processor)
    former = {"model_type": qformer, **values["qformer_config"], "encoder_hidden_size": tower.width}
    own = [name.removeprefix(LANGUAGE) for name in names if name.startswith(LANGUAGE)]
    return InstructBlipConfig(
        vit=tower,
        qformer=bert.config_from(former, values.get("num_query_tokens", 32)),
        t5=t5.config_from(language, own),
    )


def config_to(config):
    """The config.json of an InstructBlipConfig; the inverse but for remat, unroll and pixels."""
    model_type = _model_type(config)
    name, vision, _ = KINDS[model_type]
    return {
        "architectures": [name],
        "model_type": model_type,
        "vision_config": vit.config_to(config.vit, vision),
        "qformer_config": bert.config_to(config.qformer),
        "text_config": t5.config_to(config.t5),
        "num_query_tokens": config.qformer.queries,
        "image_token_index": min(IMAGE_TOKEN, config.t5.vocabulary - 1),
    }
