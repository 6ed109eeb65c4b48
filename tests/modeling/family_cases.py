"""One small stock model of every kind that converts."""

import torch
from transformers import (
    CLIPConfig,
    CLIPForImageClassification,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    DeiTModel,
    Dinov2Backbone,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    Dinov2WithRegistersBackbone,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    Dinov2WithRegistersModel,
    DINOv3ViTBackbone,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    Idefics3VisionConfig,
    IJepaConfig,
    IJepaForImageClassification,
    IJepaModel,
    InternVLVisionConfig,
    InternVLVisionModel,
    SiglipConfig,
    SiglipForImageClassification,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    VideoMAEModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
    VivitConfig,
    VivitForVideoClassification,
    VivitModel,
    VJEPA2Config,
    VJEPA2ForVideoClassification,
    VJEPA2Model,
    YolosConfig,
    YolosForObjectDetection,
    YolosModel,
)
from transformers.models.idefics3.modeling_idefics3 import Idefics3VisionTransformer

SMALL = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": 32, "patch_size": 4}
TOWER = {**SMALL, "intermediate_size": 48}
TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 99,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CLASSES = {"num_labels": 5}
VIDEO = {**SMALL, "image_size": 32, "patch_size": 8, "num_frames": 8, "tubelet_size": 2}


def dinov2(**fields):
    return Dinov2Config(**SMALL, **CLASSES, mlp_ratio=2, layerscale_value=0.5, **fields)


def registers():
    return Dinov2WithRegistersConfig(**SMALL, **CLASSES, mlp_ratio=2, num_register_tokens=3, layerscale_value=0.5)


def dinov3(**fields):
    return DINOv3ViTConfig(**TOWER, num_register_tokens=2, pos_embed_rescale=None, layerscale_value=0.5, **fields)


def clip():
    return CLIPConfig(vision_config=TOWER, text_config=TEXT, projection_dim=16, **CLASSES)


def siglip():
    return SiglipConfig(vision_config=TOWER, text_config=TEXT, **CLASSES)


def internvl():
    own = {"attention_bias": True, "layer_scale_init_value": 0.5, "use_mean_pooling": False}
    return InternVLVisionConfig(**TOWER, **own)


def yolos(**fields):
    return YolosConfig(**{**TOWER, "image_size": [32, 32]}, num_detection_tokens=5, num_labels=3, **fields)


def videomae(**fields):
    return VideoMAEConfig(**{**TOWER, **VIDEO}, **CLASSES, **fields)


def vivit():
    sizes = {name: value for name, value in VIDEO.items() if name not in ("patch_size", "tubelet_size")}
    return VivitConfig(**{**sizes, "tubelet_size": [2, 8, 8], "intermediate_size": 48}, **CLASSES)


def vjepa2(**fields):
    """With heads of 16 channels, of which four turn along each axis and four do not."""
    own = {"crop_size": 32, "patch_size": 8, "frames_per_clip": 8, "mlp_ratio": 2, "num_pooler_layers": 2}
    predictor = {"pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}
    layers = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
    return VJEPA2Config(**own, **layers, **predictor, **CLASSES, **fields)


ENCODERS = {
    "vit": lambda: ViTModel(ViTConfig(**TOWER)),
    "deit": lambda: DeiTModel(DeiTConfig(**TOWER)),
    "ijepa": lambda: IJepaModel(IJepaConfig(**TOWER)),
    "dinov2": lambda: Dinov2Model(dinov2()),
    "dinov2-gated": lambda: Dinov2Model(dinov2(use_swiglu_ffn=True)),
    "dinov2-registers": lambda: Dinov2WithRegistersModel(registers()),
    "dinov3": lambda: DINOv3ViTModel(dinov3()),
    "dinov3-gated": lambda: DINOv3ViTModel(dinov3(use_gated_mlp=True)),
    "clip": lambda: CLIPVisionModel(CLIPVisionConfig(**TOWER)),
    "siglip": lambda: SiglipVisionModel(SiglipVisionConfig(**TOWER)),
    "internvl": lambda: InternVLVisionModel(internvl()),
    "idefics3": lambda: Idefics3VisionTransformer(Idefics3VisionConfig(**TOWER)),
    "yolos": lambda: YolosModel(yolos()),
    "videomae": lambda: VideoMAEModel(videomae()),
    "videomae-normed": lambda: VideoMAEModel(videomae(use_mean_pooling=False, qv_bias=False)),
    "vivit": lambda: VivitModel(vivit()),
    "vjepa2": lambda: VJEPA2Model(vjepa2()),
}

CLASSIFIERS = {
    "vit": lambda: ViTForImageClassification(ViTConfig(**TOWER, **CLASSES)),
    "deit": lambda: DeiTForImageClassification(DeiTConfig(**TOWER, **CLASSES)),
    "deit-teacher": lambda: DeiTForImageClassificationWithTeacher(DeiTConfig(**TOWER, **CLASSES)),
    "ijepa": lambda: IJepaForImageClassification(IJepaConfig(**TOWER, **CLASSES)),
    "dinov2": lambda: Dinov2ForImageClassification(dinov2()),
    "dinov2-registers": lambda: Dinov2WithRegistersForImageClassification(registers()),
    "clip": lambda: CLIPForImageClassification(clip()),
    "siglip": lambda: SiglipForImageClassification(siglip()),
    "videomae": lambda: VideoMAEForVideoClassification(videomae()),
    "videomae-first-patch": lambda: VideoMAEForVideoClassification(videomae(use_mean_pooling=False)),
    "vivit": lambda: VivitForVideoClassification(vivit()),
    "vjepa2": lambda: VJEPA2ForVideoClassification(vjepa2()),
}

HAS_VIDEOMAE = hasattr(VideoMAEConfig(), "qv_bias")
"""Whether stock's VideoMAE is that of the checkpoints: transformers 5.17 drops biases of theirs, and adds others."""

if not HAS_VIDEOMAE:
    for builders, name in ((ENCODERS, "videomae-normed"), (CLASSIFIERS, "videomae-first-patch")):
        del builders["videomae"], builders[name]

VIDEO_ENCODERS = tuple(name for name in ("videomae", "videomae-normed", "vivit", "vjepa2") if name in ENCODERS)
VIDEO_CLASSIFIERS = tuple(
    name for name in ("videomae", "videomae-first-patch", "vivit", "vjepa2") if name in CLASSIFIERS
)
IMAGE_ENCODERS = tuple(name for name in ENCODERS if name not in VIDEO_ENCODERS)

BACKBONES = {
    "dinov2": lambda: Dinov2Backbone(dinov2(out_features=["stem", "stage2", "stage4"])),
    "dinov2-unnormed": lambda: Dinov2Backbone(dinov2(out_indices=[1, 4], apply_layernorm=False)),
    "dinov2-sequences": lambda: Dinov2Backbone(dinov2(out_indices=[2, 3], reshape_hidden_states=False)),
    "dinov2-registers": lambda: Dinov2WithRegistersBackbone(registers()),
    "dinov3": lambda: DINOv3ViTBackbone(dinov3(out_features=["stage1", "stage4"])),
    "dinov3-unnormed": lambda: DINOv3ViTBackbone(dinov3(out_indices=[2, 4], apply_layernorm=False)),
}

DETECTORS = {
    "yolos": lambda: YolosForObjectDetection(yolos()),
    "yolos-first-positions": lambda: YolosForObjectDetection(yolos(use_mid_position_embeddings=False)),
}

OTHERS = {
    "clip-projection": lambda: CLIPVisionModelWithProjection(CLIPVisionConfig(**TOWER, projection_dim=16)),
    "clip-whole": lambda: CLIPModel(clip()),
    "siglip-whole": lambda: SiglipModel(siglip()),
}

KINDS = {
    f"{kind}-{name}": build
    for kind, builders in (
        ("encoder", ENCODERS),
        ("classifier", CLASSIFIERS),
        ("backbone", BACKBONES),
        ("detector", DETECTORS),
        ("other", OTHERS),
    )
    for name, build in builders.items()
}


@torch.no_grad()
def built(build, seed=0):
    """A stock model in evaluation mode, in float64, with parameters far from those of a fresh one."""
    torch.manual_seed(seed)
    model = build().double().eval()
    for parameter in model.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def images(count=3, height=32, width=32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, height, width, generator=generator, dtype=torch.float64)


def takes_videos(model):
    return hasattr(model.config, "tubelet_size")


def fitting(model, reduction):
    """A reduction whose windows 4 and 2 on a grid of 8 x 8 patches are others on the videos' 4 x 4 x 4."""
    if not takes_videos(model) or reduction.get("dc_windows") != [4, 2]:
        return reduction
    return {**reduction, "dc_windows": [[2, 4, 2], [1, 2, 1]]}


def samples(model, count=3):
    """Images of the size that a model takes, or videos."""
    if not takes_videos(model):
        return images(count)
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 8, 3, 32, 32, generator=generator, dtype=torch.float64)


def name_of_pixels(model):
    return "pixel_values_videos" if model.main_input_name == "pixel_values_videos" else "pixel_values"


def inputs_of(model, count=3):
    """Keyword arguments of a forward pass."""
    given = {name_of_pixels(model): samples(model, count)}
    if isinstance(model, VJEPA2Model):
        given["skip_predictor"] = True
    if hasattr(model, "text_model"):
        given["input_ids"] = torch.arange(2 * 7).reshape(2, 7) % 80 + 3
    return given


def tensors_of(outputs):
    """The tensors of a model's outputs that are not states of its layers."""
    # Stock's V-JEPA 2 gives its last hidden state twice.
    left_out = ("masked_hidden_state", "hidden_states", "attentions")
    left_out += ("text_model_output", "vision_model_output", "token_sources")
    found = {}
    for name, value in outputs.items():
        if name not in left_out and value is not None:
            found[name] = list(value) if isinstance(value, (tuple, list)) else value
    return found


def tower_of(model):
    """The part of a converted model that has the reduction's methods."""
    return model if hasattr(model, "reduction") else model.vision_model
