"""One small stock composite of every kind that converts, and what it takes."""

import torch
from family_cases import SMALL, TOWER, images
from transformers import (
    CLIPVisionConfig,
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    DINOv3ViTConfig,
    DPTConfig,
    DPTForDepthEstimation,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GemmaConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    UperNetConfig,
    UperNetForSemanticSegmentation,
    ZoeDepthConfig,
    ZoeDepthForDepthEstimation,
)

IMAGE_TOKEN = 90
LANGUAGE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 99,
    "head_dim": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
PYRAMID = {"neck_hidden_sizes": [8, 8, 8, 8], "fusion_hidden_size": 8}


def dinov2(**fields):
    return Dinov2Config(**SMALL, mlp_ratio=2, layerscale_value=0.5, out_indices=[1, 2, 3, 4], **fields)


def depth_anything():
    backbone = dinov2(reshape_hidden_states=False)
    sizes = {"patch_size": 4, "reassemble_hidden_size": 32, "head_hidden_size": 8, **PYRAMID}
    return DepthAnythingForDepthEstimation(DepthAnythingConfig(backbone_config=backbone, **sizes))


def dpt():
    backbone = dinov2(reshape_hidden_states=False)
    sizes = {"backbone_out_indices": None, "hidden_size": 32, "patch_size": 4, **PYRAMID}
    return DPTForDepthEstimation(DPTConfig(backbone_config=backbone, **sizes))


def zoedepth():
    sizes = {
        "bottleneck_features": 8,
        "num_relative_features": 8,
        "bin_embedding_dim": 8,
        "patch_transformer_hidden_size": 8,
        "patch_transformer_intermediate_size": 16,
        "num_patch_transformer_layers": 1,
        "patch_transformer_num_attention_heads": 2,
        **PYRAMID,
    }
    return ZoeDepthForDepthEstimation(ZoeDepthConfig(backbone_config=dinov2(reshape_hidden_states=False), **sizes))


def upernet(backbone):
    sizes = {"hidden_size": 16, "pool_scales": [1, 2], "auxiliary_in_channels": 32, "auxiliary_channels": 8}
    return UperNetForSemanticSegmentation(UperNetConfig(backbone_config=backbone, num_labels=5, **sizes))


def registers():
    return Dinov2WithRegistersConfig(**SMALL, mlp_ratio=2, num_register_tokens=3, out_indices=[1, 2, 3, 4])


def dinov3():
    return DINOv3ViTConfig(**TOWER, num_register_tokens=2, pos_embed_rescale=None, out_indices=[1, 2, 3, 4])


def siglip():
    return SiglipVisionConfig(**TOWER, vision_use_head=False)


def llava(vision_config, **fields):
    language = LlamaConfig(**LANGUAGE)
    config = LlavaConfig(vision_config=vision_config, text_config=language, image_token_index=IMAGE_TOKEN, **fields)
    return LlavaForConditionalGeneration(config)


def llava_onevision():
    fields = {"image_token_index": IMAGE_TOKEN, "video_token_index": 91, "image_grid_pinpoints": [[32, 32]]}
    config = LlavaOnevisionConfig(vision_config=siglip(), text_config=Qwen2Config(**LANGUAGE), **fields)
    return LlavaOnevisionForConditionalGeneration(config)


def paligemma():
    fields = {"image_token_index": IMAGE_TOKEN, "projection_dim": 32}
    config = PaliGemmaConfig(vision_config=siglip(), text_config=GemmaConfig(**LANGUAGE), **fields)
    return PaliGemmaForConditionalGeneration(config)


def gemma3():
    fields = {"image_token_index": IMAGE_TOKEN, "boi_token_index": 88, "eoi_token_index": 89}
    language = Gemma3TextConfig(**LANGUAGE)
    config = Gemma3Config(vision_config=siglip(), text_config=language, mm_tokens_per_image=16, **fields)
    return Gemma3ForConditionalGeneration(config)


def internvl():
    vision = {**TOWER, "layer_scale_init_value": 0.5}
    config = InternVLConfig(vision_config=vision, text_config=Qwen2Config(**LANGUAGE), image_token_id=IMAGE_TOKEN)
    return InternVLForConditionalGeneration(config)


def idefics3(config_class, model_class):
    fields = {"image_token_id": IMAGE_TOKEN, "pad_token_id": 0}
    return model_class(config_class(vision_config=dict(TOWER), text_config=LlamaConfig(**LANGUAGE), **fields))


BACKBONED = {
    "depth_anything": depth_anything,
    "dpt": dpt,
    "zoedepth": zoedepth,
    "upernet-dinov2": lambda: upernet(dinov2()),
    "upernet-registers": lambda: upernet(registers()),
    "upernet-dinov3": lambda: upernet(dinov3()),
}

TALKING = {
    "llava": lambda: llava(CLIPVisionConfig(**TOWER)),
    "llava-siglip": lambda: llava(siglip(), vision_feature_layer=-1, vision_feature_select_strategy="full"),
    "llava_onevision": llava_onevision,
    "paligemma": paligemma,
    "gemma3": gemma3,
    "internvl": internvl,
    "idefics3": lambda: idefics3(Idefics3Config, Idefics3ForConditionalGeneration),
    "smolvlm": lambda: idefics3(SmolVLMConfig, SmolVLMForConditionalGeneration),
}

COMPOSITES = {**BACKBONED, **TALKING}

IMAGE_TOKENS = {"llava_onevision": 64 + 64 + 8, "gemma3": 16, "internvl": 16, "idefics3": 2 * 16, "smolvlm": 2 * 16}
"""Places of the text that an image takes, where they are not its 64 patches."""


def arguments_of(name, tokens=None):
    """Keyword arguments of a forward pass; ``tokens`` places for the image."""
    given = {"pixel_values": images(2)}
    if name in TALKING:
        tokens = IMAGE_TOKENS.get(name, 64) if tokens is None else tokens
        given["input_ids"] = torch.tensor([[1, *[IMAGE_TOKEN] * tokens, 5, 6, 7]] * 2)
    if name in ("paligemma", "gemma3"):
        given["token_type_ids"] = (given["input_ids"] == IMAGE_TOKEN).long()
    if name == "llava_onevision":
        given["pixel_values"] = torch.stack([images(2), images(2).flip(0)], dim=1)
        given["image_sizes"] = torch.tensor([[32, 32]] * 2)
    if name in ("idefics3", "smolvlm"):
        given["pixel_values"] = torch.stack([images(2), images(2).flip(0)], dim=1)
        given["pixel_attention_mask"] = torch.ones(2, 2, 32, 32, dtype=torch.long)
    return given


def answer_of(outputs):
    """The tensor that a composite is there for."""
    return outputs["predicted_depth"] if "predicted_depth" in outputs else outputs["logits"]
