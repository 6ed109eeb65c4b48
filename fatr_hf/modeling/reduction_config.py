# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""The reduction's fields of every family's configuration: checks, presets, plans, and loading from a stock one."""

import difflib
import math
import os
from collections.abc import Iterable
from dataclasses import fields
from types import NoneType
from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from .presets import default_layers, preset_fields
from .token_plan import FOLDS, EncoderSpec, LayerPlan, per_layer, plan_layers

SELECTIONS = (
    "high_frequency",
    "high_frequency_energy",
    "low_frequency",
    "cls_attention",
    "dc_similarity",
    "random",
)
"""How patch tokens are ranked: by the paper, by energy, then for ablation (see ``selection_scores``)."""

REDUCTION_FIELDS = {
    "reduction_layers": "Layers that reduce, counted from 0. [quarter, half, three quarters]",
    "keep_ratio": "Share of the patches to keep: one, or one for each reduction layer. [0.7]",
    "dc_windows": "DC windows along each side: one, or one for each reduction layer. [2, then 1]",
    "fold": f"How to fold the other tokens: {', '.join(FOLDS)}. [windows]",
    "reweight_attention": "Learn per head to re-weight high frequencies and DC tokens. [yes]",
    "dc_position_embeddings": "Learn a position embedding for DC tokens. [yes]",
    "selection": f"How tokens are ranked: {', '.join(SELECTIONS)}. [high_frequency]",
    "token_multiple": "Reduced sequence lengths are multiples of this. [1]",
    "size_exponent": "Raises attention to tokens that represent many patches. [0; fold similar: 1]",
}
"""The fields of the reduction, and what command lines say of them; [their defaults]."""

ADDED_FIELDS = (*REDUCTION_FIELDS, "dense_outputs")
"""All fields that a stock configuration does not have."""

LARGEST_WIDTH, LARGEST_SIZE, LARGEST_DEPTH = 2**16, 2**20, 1000
"""Widths, patches or classes, and layers: far beyond any ViT. What names more is damaged, and would never be built."""

UNREDUCED: dict[str, Any] = {
    "reduction_layers": [],
    "keep_ratio": 1.0,
    "dc_windows": [],
    "fold": "windows",
    "size_exponent": 0.0,
    "reweight_attention": False,
    "dc_position_embeddings": False,
}
"""Fields with which a model has no reduction and no parameters of one."""

DTYPES = ("float64", "float32", "bfloat16", "float16")


def as_pair(name: str, size: int | Iterable[int]) -> tuple[int, int]:
    """Height and width of a size given as one number or as both.

    Raises:
        ValueError: another number of values, or one below 1.
    """
    values = list(size) if isinstance(size, Iterable) else [size, size]
    if len(values) != 2 or not all(is_integer(value) and value >= 1 for value in values):
        raise ValueError(f"{name}={size!r} must be one number, or height and width, each at least 1.")
    return values[0], values[1]


def is_number(value: Any) -> bool:
    """Whether a value is a number; True and False are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_integer(value: Any) -> bool:
    """Whether a value is an integer; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)


@strict
class ReductionConfig(PreTrainedConfig):
    r"""What the configuration of every family adds to the stock one's (arXiv 2511.21477).

    Args:
        reduction_layers (list[int], optional):
            0-based layers that reduce, strictly increasing. Defaults to a quarter, half and three quarters of the
            depth.
        keep_ratio (float or list[float], defaults to 0.7):
            Share of the patch tokens at hand that each reduction layer keeps, in (0, 1]; one value, or one per
            reduction layer. 1.0 leaves that layer an ordinary one.
        dc_windows (int or list[int], optional):
            Windows along each side of the patch grid; the patches dropped in a window become one DC token. One value,
            or one per reduction layer; each divides the one before. Defaults to 2 in the first, then 1. 0 in all of
            them, for ablation, drops the patches that are not kept.
        fold (str, defaults to "windows"):
            How the patches that are not kept are folded. `"windows"`, the paper's: each joins the DC token of its
            window. `"similar"`: each joins the most similar kept patch, which then represents both; there are no DC
            tokens.
        reweight_attention (bool, defaults to True):
            Whether heads learn to re-weight high frequencies and DC tokens (omega1, omega2).
        dc_position_embeddings (bool, defaults to True):
            Whether DC tokens get a learned position embedding.
        selection (str, defaults to "high_frequency"):
            How tokens are ranked. `"high_frequency"`, the paper's: by the attention they receive.
            `"high_frequency_energy"`: by their contribution to the high frequencies of the attention output, unless a
            stronger token resembles them. `"low_frequency"`, `"cls_attention"`, `"dc_similarity"` and `"random"` are
            for ablation.
        token_multiple (int, defaults to 1):
            Fewer tokens are kept until a reduced sequence's length is a multiple of this.
        size_exponent (float, optional):
            Raises the attention logits towards a token of `c` patches by this times `log(c)`, in [0, 1]. Defaults to 0,
            with `fold="similar"` to 1.
        dense_outputs (bool, defaults to False):
            Whether the last hidden state, and all others that are asked for, come back on the full grid: a patch gets
            the token that stands for it, and what it differed by from that token when it was folded.

    Raises:
        huggingface_hub.errors.StrictDataclassError: a field of the wrong type or value, a misspelt field, or a
            reduction that cannot be carried out; in words that name the field, the value and what is allowed.
    """

    stock_model_types: ClassVar[tuple[str, ...]] = ()
    """Model types whose encoder is this family's: their checkpoints load as FATR."""
    stock_only_fields: ClassVar[tuple[str, ...]] = ()
    """Fields of those that belong to parts of the stock model which FATR does not have."""
    takes_any_size: ClassVar[bool] = False
    """Whether the stock model stretches its positions to every image by itself."""
    has_square_size: ClassVar[bool] = False
    """Whether ``image_size`` must be a square, as stock makes its positions for one; images may have any shape."""
    has_cls: ClassVar[bool] = True
    """Whether a CLS token stands before the patches."""
    classifier_reads: ClassVar[str | None] = "cls"
    """What a classifier reads of an encoder's tokens: ``cls``, ``patches`` (their mean), ``cls_and_patches`` or
    ``first_patch``; None in a family without one."""
    input_axes: ClassVar[tuple[str, ...]] = ("channels", "height", "width")
    """What pixel values hold along each axis behind the batch."""

    reduction_layers: list[int] | tuple[int, ...] | None = None
    keep_ratio: float | int | list[float | int] | tuple[float | int, ...] = 0.7
    dc_windows: int | list[int] | tuple[int, ...] | None = None
    fold: str = "windows"
    reweight_attention: bool = True
    dc_position_embeddings: bool = True
    selection: str = "high_frequency"
    token_multiple: int = 1
    size_exponent: float | int | None = None
    dense_outputs: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        check_spelling(type(self), kwargs)
        check_labels(self.id2label, self.label2id, kwargs.get("num_labels"))
        check_dtype(self.dtype, kwargs.get("torch_dtype"))
        if "preset" in kwargs:
            name = type(self).__name__
            raise ValueError(
                f"preset is an argument of {name}.from_preset and of from_pretrained, not of the constructor."
            )
        if self.reduction_layers is None:
            self.reduction_layers = default_layers(self.num_hidden_layers)
        if self.size_exponent is None:
            self.size_exponent = 1.0 if self.fold == "similar" else 0.0
        if self.dc_windows is None and self.fold == "similar":
            self.dc_windows = 0
        elif self.dc_windows is None:
            self.dc_windows = [2, *[1] * len(self.reduction_layers)][: len(self.reduction_layers)]
        for name in ("reduction_layers", "keep_ratio", "dc_windows"):
            if isinstance(getattr(self, name), tuple):
                setattr(self, name, list(getattr(self, name)))
        super().__post_init__(**kwargs)
        if self.label2id:  # numbers as text, as a tutorial of transformers writes them
            self.label2id = {str(name): int(number) for name, number in self.label2id.items()}

    @property
    def encoder_spec(self) -> EncoderSpec:
        """What the family's layers are made of."""
        return self.spec()

    def spec(self, **others: Any) -> EncoderSpec:
        """The layers by the fields of most stock configurations, and ``others`` where a family's differ."""
        bias = getattr(self, "qkv_bias", True)
        usual: dict[str, Any] = {
            "hidden_size": self.hidden_size,
            "num_heads": self.num_attention_heads,
            "inner_size": getattr(self, "intermediate_size", None),
            "layer_norm_eps": self.layer_norm_eps,
            "activation": self.hidden_act,
            "query_bias": bias,
            "key_bias": bias,
            "value_bias": bias,
            "dropout": getattr(self, "hidden_dropout_prob", 0.0),
            "attention_dropout": getattr(self, "attention_probs_dropout_prob", getattr(self, "attention_dropout", 0.0)),
        }
        return EncoderSpec(**usual | others)

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches, which are never reduced: CLS and registers, where a family has no others."""
        return self.has_cls + (getattr(self, "num_register_tokens", None) or 0)

    @property
    def classifier_width(self) -> int:
        """Channels that a classifier reads."""
        return self.hidden_size * (2 if self.classifier_reads == "cls_and_patches" else 1)

    def head_macs(self, num_tokens: int, is_reduced: bool) -> int:
        """Multiply-accumulates of a classifier that reads so many tokens, of a reduced sequence or a whole one."""
        return 0 if self.classifier_reads is None else self.classifier_width * (self.num_labels or 0)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers, with every overridden field validated, and a stock configuration taken as a start.

        Args:
            config_dict: of this family or of its stock model; of a composite such as CLIP its vision part is taken.
            **kwargs: fields that override those; ``preset`` names several at once (see ``preset_fields``).

        Raises:
            ValueError: the configuration of another architecture, one with a field of a wrong type, or one that
                chooses code.
        """
        config_dict = dict(config_dict)
        check_choice_of_code(config_dict)
        if "dc_size_exponent" in config_dict:  # as it was called in the first files
            config_dict["size_exponent"] = config_dict.pop("dc_size_exponent")
        if cls.base_config_key in config_dict and config_dict.get("model_type") != cls.model_type:
            config_dict = vision_part(cls, config_dict)
        model_type = config_dict.pop("model_type", cls.model_type)
        if model_type != cls.model_type:
            config_dict = convert_config_dict(cls, model_type, config_dict)
        check_spelling(cls, kwargs)
        # transformers would set overrides on the finished configuration, past its checks.
        kwargs = {cls.attribute_map.get(name, name): value for name, value in kwargs.items()}
        names = {field.name for field in fields(cls)} - {"dtype"}
        overrides = {name: kwargs.pop(name) for name in names & kwargs.keys()}
        preset = kwargs.pop("preset", None)
        try:
            if preset is None and overrides.get("fold", config_dict.get("fold")) != config_dict.get("fold"):
                # The saved values belong to the other fold.
                config_dict |= dict.fromkeys(("dc_windows", "size_exponent"))
            if preset is not None:
                unreduced = super().from_dict(config_dict | overrides | UNREDUCED)
                grid, layers = unreduced.patch_grid(), overrides.get("reduction_layers")
                overrides = preset_fields(preset, grid, unreduced.num_hidden_layers, layers) | overrides
            return super().from_dict(config_dict | overrides, **kwargs)
        except (AttributeError, LookupError, RecursionError, TypeError) as error:
            # Fields that are transformers' alone, which it reads without checking them.
            raise ValueError(f"The configuration has a field of a wrong type: {error}") from error

    @classmethod
    def from_preset(cls, preset: str, **fields: Any) -> Any:
        """A configuration of a reduction by name (see ``preset_fields``); fields that are given override it.

        Raises:
            ValueError: an unknown preset.
        """
        return cls.from_dict({}, preset=preset, **fields)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Any:
        """As in transformers, for checkpoints of the stock model too; see ``from_dict``.

        Raises:
            OSError: no such checkpoint, or a config.json that is no JSON.
            ValueError: a config.json that is absent or is no configuration of a model.
        """
        name = str(pretrained_model_name_or_path)
        try:
            config_dict, kwargs = cls.get_config_dict(pretrained_model_name_or_path, **kwargs)
        except (RecursionError, TypeError, ValueError) as error:
            raise ValueError(f"The config.json of {name!r} cannot be read: {error}") from error
        # Without one transformers takes the default configuration, which is some other model's.
        if "model_type" not in config_dict:
            raise ValueError(f"{name!r} has no config.json with a model_type.")
        return cls.from_dict(config_dict, **kwargs)

    @property
    def patch_sides(self) -> tuple[int, ...]:
        """Pixels of a patch along each axis of the grid."""
        return as_pair("patch_size", self.patch_size)

    def input_sides(self, image_size: int | Iterable[int] | None = None) -> tuple[int, ...]:
        """Pixels of an image along each axis of the grid; `config.image_size` by default."""
        return as_pair("image_size", self.image_size if image_size is None else image_size)

    def input_shape(self, image_size: int | Iterable[int] | None = None) -> tuple[int, ...]:
        """The shape of an image's pixel values, along `input_axes`."""
        *frames, height, width = self.input_sides(image_size)
        return *frames, self.num_channels, height, width

    def patch_grid(self, image_size: int | Iterable[int] | None = None) -> tuple[int, ...]:
        """Rows and columns of whole patches of an image, of `config.image_size` by default.

        Raises:
            ValueError: an image smaller than a patch.
        """
        sides, patch = self.input_sides(image_size), self.patch_sides
        if any(side < least for side, least in zip(sides, patch, strict=True)):
            raise ValueError(
                f"image_size={sides} holds no patch: height and width must be at least patch_size={patch}."
            )
        return tuple(side // length for side, length in zip(sides, patch, strict=True))

    def plan(self, image_size: int | Iterable[int] | None = None, reduce: bool = True) -> list[LayerPlan]:
        """What every layer does to its sequence, without building a model.

        Args:
            image_size: height and width in pixels (one number for both); `config.image_size` by default.
            reduce: False gives the plan of the unreduced model.

        Raises:
            ValueError: an image size that holds no patch, or a reduction impossible at that size.
        """
        layers = list(self.reduction_layers or ()) if reduce else []
        return plan_layers(
            self.patch_grid(image_size),
            self.num_hidden_layers,
            self.num_prefix_tokens,
            layers,
            per_layer("keep_ratio", self.keep_ratio, layers) if reduce else [],
            per_layer("dc_windows", self.dc_windows, layers) if reduce else [],
            self.token_multiple,
            self.selection,
            self.size_exponent or 0.0,
            self.fold,
        )

    def validate_heads(self) -> None:
        """Checks that heads divide the hidden size (run by `@strict`)."""
        if self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} must be at least 1 and divide "
                f"hidden_size={self.hidden_size}."
            )

    def validate_model(self) -> None:
        """Checks the sizes and numbers of the model apart from its reduction, of those fields that the family has.

        `@strict` runs validators in alphabetical order: nothing of a million layers is planned after this.
        """
        given = {name: getattr(self, name) for name in vars(self) if getattr(self, name) is not None}
        sizes = (
            "hidden_size",
            "intermediate_size",
            "num_attention_heads",
            "num_channels",
            "num_detection_tokens",
            "pooler_output_size",
        )
        for name in (name for name in sizes if name in given):
            check_size(name, given[name], LARGEST_WIDTH)
        check_size("num_hidden_layers", self.num_hidden_layers, LARGEST_DEPTH)
        if self.has_square_size and len({*self.input_sides()}) > 1:
            raise ValueError(
                f"image_size={self.image_size} must be a square in {self.model_type!r}, whose positions are for one: "
                "keep the checkpoint's image_size, or let the image processor crop squares."
            )
        check_size("the number of patches", math.prod(self.patch_grid()), LARGEST_SIZE)
        shares = ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "drop_path_rate")
        for name in (name for name in shares if name in given):
            if not 0 <= given[name] <= 1:
                raise ValueError(f"{name}={given[name]} must lie in [0, 1].")
        for name in ("return_dict", "output_attentions", "output_hidden_states"):
            if not isinstance(getattr(self, name), (bool, NoneType)):
                raise ValueError(f"{name}={getattr(self, name)!r} must be True or False.")
        for name in (name for name in ("layer_norm_eps", "initializer_range") if name in given):
            if not 0 <= given[name] < math.inf:
                raise ValueError(f"{name}={given[name]} must be a finite number of at least 0.")
        for name in (name for name in ("hidden_act", "pooler_act") if name in given):
            if given[name] not in ACT2FN:
                raise ValueError(f"{name}={given[name]!r} must be one of {', '.join(ACT2FN)}.")

    def check_dc_windows(self, windows: Any) -> None:
        """Raises a ValueError unless a reduction layer's windows are an integer of at least 0."""
        if not is_integer(windows) or windows < 0:
            raise ValueError(f"dc_windows={self.dc_windows} must be integers of at least 0; {windows!r} is not.")

    def validate_reduction(self) -> None:
        """Checks every field of the reduction and the plan they make together (run by `@strict`)."""
        layers, depth = list(self.reduction_layers or ()), self.num_hidden_layers
        if not all(is_integer(layer) and 0 <= layer < depth for layer in layers) or layers != sorted(set(layers)):
            raise ValueError(
                f"reduction_layers={layers} must be strictly increasing integers from 0 to {depth - 1} "
                f"(the model has {depth} layers)."
            )
        for ratio in per_layer("keep_ratio", self.keep_ratio, layers):
            if not is_number(ratio) or not 0 < ratio <= 1:
                raise ValueError(f"keep_ratio={self.keep_ratio} must lie in (0, 1]; {ratio!r} does not.")
        for windows in per_layer("dc_windows", self.dc_windows, layers):
            self.check_dc_windows(windows)
            if windows and self.fold == "similar":
                raise ValueError(
                    f"dc_windows={self.dc_windows} belongs to fold='windows'; fold='similar' makes no DC tokens: leave "
                    "it out."
                )
            if not windows and any(per_layer("dc_windows", self.dc_windows, layers)):
                raise ValueError(f"dc_windows={self.dc_windows} must be 0 in every reduction layer or in none.")
        if not is_integer(self.token_multiple) or self.token_multiple < 1:
            raise ValueError(f"token_multiple={self.token_multiple!r} must be an integer of at least 1.")
        exponent = self.size_exponent
        if not is_number(exponent) or exponent is None or not 0 <= exponent <= 1:
            raise ValueError(f"size_exponent={self.size_exponent!r} must lie in [0, 1].")
        drops = bool(layers) and self.fold == "windows" and not any(per_layer("dc_windows", self.dc_windows, layers))
        if self.size_exponent and drops:
            raise ValueError(
                f"size_exponent={self.size_exponent} needs tokens that stand for several patches, and with "
                "dc_windows=0 there are none: set it to 0."
            )
        if self.fold not in FOLDS:
            raise ValueError(f"fold={self.fold!r} must be one of {', '.join(FOLDS)}.")
        if self.selection not in SELECTIONS:
            raise ValueError(f"selection={self.selection!r} must be one of {', '.join(SELECTIONS)}.")
        if self.selection == "cls_attention" and not self.num_prefix_tokens:
            raise ValueError(f"selection='cls_attention' needs a CLS token, which {self.model_type!r} does not have.")
        self.plan()


def check_size(name: str, size: int, largest: int) -> None:
    """Raises a ValueError for a size below 1 or above the largest."""
    if not 1 <= size <= largest:
        raise ValueError(f"{name}={size} must be an integer from 1 to {largest}.")


def check_labels(id2label: Any, label2id: Any, num_labels: Any) -> None:
    """Raises a ValueError for names of classes, or a number of them, that are none; each may be None."""
    if num_labels is not None and not (is_integer(num_labels) and 0 <= num_labels <= LARGEST_SIZE):
        raise ValueError(f"num_labels={num_labels!r} must be an integer from 0 to {LARGEST_SIZE}.")
    if id2label is not None and not (isinstance(id2label, dict) and all(str(key).isdecimal() for key in id2label)):
        raise ValueError(f"id2label={id2label!r} must map the number of every class to its name.")
    if label2id is not None and not (
        isinstance(label2id, dict) and all(str(number).isdecimal() for number in label2id.values())
    ):
        raise ValueError(f"label2id={label2id!r} must map the name of every class to its number.")


def check_dtype(*dtypes: Any) -> None:
    """Raises a ValueError for the name of a dtype that weights cannot have; None stands for the default."""
    for dtype in dtypes:
        if dtype is not None and not isinstance(dtype, torch.dtype) and dtype not in DTYPES:
            raise ValueError(f"dtype={dtype!r} must be one of {', '.join(DTYPES)}.")


def check_choice_of_code(config_dict: dict[str, Any]) -> None:
    """Raises a ValueError where a configuration's file would have transformers fetch kernels, or unpickle weights.

    Whoever wants a kernel of the Hub gives ``attn_implementation`` to ``from_pretrained``.
    """
    for name in ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation"):
        if "/" in str(config_dict.get(name)):
            raise ValueError(f"{name}={config_dict[name]!r}: a configuration may not choose code from the Hub.")
    if config_dict.get("transformers_weights") is not None:
        raise ValueError(
            f"transformers_weights={config_dict['transformers_weights']!r}: a configuration may not choose the file of "
            "the weights, which are read from model.safetensors or what its index lists."
        )


def check_spelling(cls: type[PreTrainedConfig], kwargs: dict[str, Any]) -> None:
    """Raises a ValueError for an unknown argument that looks like one of our fields."""
    for name in kwargs:
        close = difflib.get_close_matches(name, ADDED_FIELDS, n=1, cutoff=0.8)
        if close and name not in ADDED_FIELDS:
            raise ValueError(f"{cls.__name__} has no field {name!r}: did you mean {close[0]!r}?")


def convert_config_dict(cls: type[ReductionConfig], model_type: str, config_dict: dict[str, Any]) -> dict[str, Any]:
    """The fields of a stock configuration that carry over.

    Raises:
        ValueError: a model type whose encoder is not this family's.
    """
    if model_type not in cls.stock_model_types:
        family = cls.__name__.removeprefix("FATR").removesuffix("Config")
        raise ValueError(
            f"A checkpoint of model type {model_type!r} cannot be loaded as a FATR {family}: its encoder must be "
            f"{family}'s, that is one of {', '.join(cls.stock_model_types)} (or {cls.model_type} itself)."
        )
    dropped = ("architectures", "auto_map", *cls.stock_only_fields)
    return {name: value for name, value in config_dict.items() if name not in dropped}


def vision_part(cls: type[ReductionConfig], config_dict: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the vision tower in a composite's, with the classes that a classifier of it names.

    Raises:
        ValueError: a vision tower that is no dictionary of fields.
    """
    tower = config_dict[cls.base_config_key]
    if not isinstance(tower, dict):
        raise ValueError(f"{cls.base_config_key}={tower!r} must be the configuration of a vision tower.")
    labels = {name: config_dict[name] for name in ("id2label", "label2id", "problem_type") if name in config_dict}
    return {"model_type": next(iter(cls.stock_model_types), None), **tower} | labels
