"""A FATR model of any family that reduces by another method: it loads, trains, saves, fuses and runs like any model."""

import copy
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from typing import Any, ClassVar, Self

from huggingface_hub.dataclasses import strict
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from .. import families
from ..modeling.fused_inference import is_fused
from ..modeling.reduction_config import UNREDUCED, ReductionConfig
from ..modeling.reduction_model import ReductionModel, check_pixel_values, sides_of
from ..modeling.token_plan import LayerPlan
from .arguments import check_fatr, described
from .evit import EViT
from .mctf import MCTF
from .methods import Method
from .pitome import PiToMe
from .pooling import Pooling
from .prune_merge import PruneMerge
from .tome import ToMe
from .truncation import Truncation
from .zero_tprune import ZeroTPrune

METHODS: dict[str, type[Method]] = {
    "evit": EViT,
    "tome": ToMe,
    "pitome": PiToMe,
    "prune_merge": PruneMerge,
    "mctf": MCTF,
    "zero_tprune": ZeroTPrune,
    "pooling": Pooling,
    "truncation": Truncation,
}
"""By the name that a configuration holds."""


@strict
class RivalConfig(PreTrainedConfig):
    """Configuration of a ``Rival``.

    Args:
        method: one of ``METHODS``.
        settings: the method's fields; those that are not given have their defaults.
        architecture: the class of the model that is reduced.
        encoder_config: the configuration of that model, which does not reduce by itself.
    """

    model_type = "fatr_rival"
    sub_configs: ClassVar[dict[str, Any]] = {"encoder_config": AutoConfig}

    method: str = "tome"
    settings: dict[str, Any] | None = None
    architecture: str = "FATRViTForImageClassification"
    encoder_config: dict[str, Any] | PreTrainedConfig | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        encoder: Any = self.encoder_config or {"model_type": "fatr_vit"}
        if not isinstance(encoder, PreTrainedConfig):
            encoder = config_of(encoder)
        self.encoder_config = encoder
        self.id2label, self.label2id = encoder.id2label, encoder.label2id
        kwargs.pop("num_labels", None)
        super().__post_init__(**kwargs)
        self.settings = asdict(build_method(self.method, self.settings))

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers.

        Raises:
            ValueError: the configuration of a model that is no rival.
        """
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(
                f"A checkpoint of model type {model_type!r} is no rival: load it with fatr_hf.convert, and give that "
                "model to Rival.of with a method."
            )
        return super().from_dict(config_dict, **kwargs)

    @property
    def image_size(self) -> Any:
        """Of the model that is reduced: height and width in pixels, or one number for both."""
        return self.encoder.image_size

    @property
    def patch_size(self) -> Any:
        """Of the model that is reduced."""
        return self.encoder.patch_size

    @property
    def num_channels(self) -> int:
        """Of the model that is reduced."""
        return int(self.encoder.num_channels)

    @property
    def num_hidden_layers(self) -> int:
        """Of the model that is reduced."""
        return int(self.encoder.num_hidden_layers)

    @property
    def encoder(self) -> ReductionConfig:
        """The configuration of the model that is reduced."""
        assert isinstance(self.encoder_config, ReductionConfig)
        return self.encoder_config

    def plan(self, image_size: int | Iterable[int] | None = None) -> list[LayerPlan]:
        """What every layer does (see ``Method.plan``)."""
        return build_method(self.method, self.settings).plan(self.encoder, image_size)

    def validate_method(self) -> None:
        """Checks the method, its fields and the class of the model (run by `@strict`)."""
        model_class(self)
        self.plan()


class Rival(PreTrainedModel):
    """A model whose every forward pass follows the plan of a method; outputs and arguments are the model's own."""

    config_class = RivalConfig
    config: RivalConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _no_split_modules = ["FATRLayer"]

    def __init__(self, config: RivalConfig, model: ReductionModel | None = None):
        super().__init__(config)
        self.method = build_method(config.method, config.settings)
        self.model: Any = model_class(config)(config.encoder) if model is None else model
        if model is None:
            self.post_init()

    @classmethod
    def of(cls, model: ReductionModel, method: Method) -> Self:
        """A model's copy, without the parameters of its own reduction, that reduces by a method.

        Args:
            model: a FATR model; it stays as it is.

        Raises:
            ValueError: what is no FATR model, a fused one, no method, or a model that the method cannot take.
        """
        check_fatr(model, "given a method")
        names = [name for name, each in METHODS.items() if type(method) is each]
        if not names:
            classes = ", ".join(each.__name__ for each in METHODS.values())
            raise ValueError(f"method={described(method)} must be one of {classes}, such as ToMe(merges_per_layer=13).")
        method.plan(model.config)
        unreduced = unreduced_copy(model)
        config = RivalConfig(
            method=names[0],
            settings=asdict(method),
            architecture=type(unreduced).__name__,
            encoder_config=unreduced.config,
        )
        config._attn_implementation = model.config._attn_implementation
        config.dtype = model.dtype
        return cls(config, unreduced).eval()

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *model_args: Any, output_loading_info: bool = False, **kwargs: Any
    ) -> Any:
        """As in transformers, from what ``save_pretrained`` wrote.

        Raises:
            ValueError: a checkpoint of another kind of model, or one that lacks weights.
        """
        loaded: Any = super().from_pretrained(
            pretrained_model_name_or_path, *model_args, output_loading_info=True, use_safetensors=True, **kwargs
        )
        rival, info = loaded
        missing = set(info["missing_keys"])
        if any(key.startswith("model.pooler.") for key in missing):
            rival.model.pooler = None
        lacking = sorted(missing & {name for name, _ in rival.named_parameters()})
        if lacking:
            raise ValueError(
                f"The checkpoint {str(pretrained_model_name_or_path)!r} lacks {len(lacking)} of the model's weights, "
                f"such as {lacking[0]}: a model with random layers is never returned."
            )
        return (rival, info) if output_loading_info else rival

    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        plan: Sequence[LayerPlan] | None = None,
        **kwargs: Any,
    ) -> Any:
        """As the model that is reduced, by the method's plan; ``labels`` are for classifiers.

        Pixel values may have the name that they have there.
        """
        if pixel_values is None:
            pixel_values = kwargs.pop(self.model.main_input_name, None)
        if labels is not None:
            kwargs["labels"] = labels
        return self.model(pixel_values, plan=self.plan_for(pixel_values) if plan is None else plan, **kwargs)

    def plan_for(self, pixel_values: Tensor) -> list[LayerPlan]:
        """The plan of a forward pass over images (batch, channels, height, width)."""
        encoder = self.config.encoder
        check_pixel_values(pixel_values, encoder.num_channels, encoder.input_axes)
        return self.method.plan(encoder, sides_of(pixel_values))

    def fuse(self) -> Self:
        """A copy for inference (see ``ReductionModel.fuse``)."""
        return type(self)(copy.deepcopy(self.config), self.model.fuse()).eval()

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """As in transformers, under the state dict's names, which a resumed Trainer reads without renaming.

        Raises:
            ValueError: a fused copy, whose weights have other names.
        """
        if is_fused(self):
            raise ValueError("A fused model cannot be saved: save the model that it was made from.")
        kwargs.setdefault("save_original_format", False)
        super().save_pretrained(save_directory, **kwargs)


def unreduced_copy(model: ReductionModel) -> ReductionModel:
    """A model's copy in evaluation mode that does not reduce and has no parameters of the reduction."""
    unreduced = copy.deepcopy(model).eval()
    config, encoder = unreduced.config, unreduced.base_model
    for name, value in UNREDUCED.items():
        setattr(config, name, copy.copy(value))
    for layer in encoder.layers:
        layer.attention.omega1 = layer.attention.omega2 = layer.reduction.dc_position_embeddings = None
    return unreduced


def build_method(name: str, settings: dict[str, Any] | None) -> Method:
    """A method by its name in ``METHODS`` and its fields.

    Raises:
        ValueError: an unknown name, a field that the method does not have, or a value that is not allowed.
    """
    if name not in METHODS:
        raise ValueError(f"method={name!r} must be one of {', '.join(METHODS)}.")
    known = [field.name for field in fields(METHODS[name])]
    for field in settings or {}:
        if field not in known:
            raise ValueError(f"{METHODS[name].__name__} has no field {field!r}, but {', '.join(known)}.")
    return METHODS[name](**settings or {})


def config_of(encoder: dict[str, Any]) -> ReductionConfig:
    """The configuration of a family, from its fields.

    Raises:
        ValueError: a model type of no family.
    """
    family = families.family_of(str(encoder.get("model_type")))
    if family is None:
        raise ValueError(f"encoder_config={encoder!r} must be the configuration of a FATR model.")
    config: ReductionConfig = family.config.from_dict(encoder)
    return config


def model_class(config: RivalConfig) -> type[ReductionModel]:
    """The class of the model that is reduced.

    Raises:
        ValueError: the family has no class of that name.
    """
    family: Any = families.family_of(config.encoder.model_type)
    found = getattr(sys.modules[family.model.__module__], config.architecture, None)
    if not isinstance(found, type) or not issubclass(found, ReductionModel):
        raise ValueError(f"architecture={config.architecture!r} must be a model of {config.encoder.model_type!r}.")
    return found


AutoConfig.register(RivalConfig.model_type, RivalConfig, exist_ok=True)
AutoModel.register(RivalConfig, Rival, exist_ok=True)
