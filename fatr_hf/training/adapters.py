"""Adapters of peft on a FATR model, beside which the reduction's own parameters train and are saved.

peft freezes all but its adapters and whole modules that are named (``modules_to_save``). Omegas are parameters of the
attention module, whose projections carry the adapters, so that neither way reaches them. Needs peft.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from accelerate.utils import has_compiled_regions
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from peft.utils.other import AuxiliaryTrainingWrapper
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..modeling.encoder import FATRAttention
from ..modeling.fused_inference import is_fused

REDUCTION_PARAMETERS = ("omega1", "omega2", "dc_position_embeddings")
"""Last parts of the names of the parameters that a FATR model has and a stock ViT has not."""

ADAPTER_NAME = "default"
"""Adapters of other names would be saved in a folder of their own, where a Trainer does not look for them."""


class FATRPeftModel(PeftModel):
    """A FATR model with an adapter: what trains is the adapter, ``modules_to_save`` and the reduction's parameters.

    ``save_pretrained`` writes all of it to one ``adapter_model.safetensors``, the reduction's parameters under their
    own names, so that ``PeftModel.from_pretrained`` reads it too. ``FATRPeftModel.from_pretrained(model, folder,
    is_trainable=True)`` goes on training. The reduction's parameters are the model's own: ``disable_adapter`` leaves
    them as trained, ``merge_and_unload`` keeps them, and a second adapter would share them, so there is one only.

    Args:
        model: a FATR encoder or classifier, which is changed in place.
        peft_config: of any method of peft that adapts modules, such as ``LoraConfig``.
        adapter_name: "default", which is peft's default.
        kwargs: other arguments of ``PeftModel``.

    Raises:
        ValueError: a model that is compiled, fused or has adapters, another adapter name, a ``task_type`` (those of
            peft are for text), or names of modules, parameters or layers that the model does not have.
    """

    def __init__(self, model: nn.Module, peft_config: PeftConfig, adapter_name: str = ADAPTER_NAME, **kwargs: Any):
        if has_compiled_regions(model):
            raise ValueError("A compiled model takes no adapter: adapt the model itself, and compile what comes out.")
        if is_fused(model):
            raise ValueError("A fused model takes no adapter: adapt the model that it was made from, and fuse that.")
        if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
            raise ValueError("The model has an adapter already: call its merge_and_unload() or unload() first.")
        if peft_config.task_type is not None or peft_config.is_prompt_learning:
            raise ValueError(
                f"{type(peft_config).__name__}(task_type={peft_config.task_type!r}) is for models of text: leave "
                "task_type out, and take a method that adapts modules, such as LoraConfig."
            )
        if adapter_name != ADAPTER_NAME:
            raise ValueError(f"adapter_name={adapter_name!r}: the one adapter is {ADAPTER_NAME!r}; leave the name out.")
        check_matched_names(model, peft_config)
        if peft_config.base_model_name_or_path is None:
            peft_config.base_model_name_or_path = getattr(model, "name_or_path", None) or None
        super().__init__(model, peft_config, adapter_name, **kwargs)
        for parameter in self.reduction_parameters().values():
            parameter.requires_grad_(not peft_config.inference_mode)

    def reduction_parameters(self) -> dict[str, nn.Parameter]:
        """The reduction's parameters by name, without those in ``modules_to_save``, which peft takes care of."""
        wrapped = {
            id(parameter)
            for module in self.modules()
            if isinstance(module, AuxiliaryTrainingWrapper)
            for parameter in module.parameters()
        }
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if name.rpartition(".")[2] in REDUCTION_PARAMETERS and id(parameter) not in wrapped
        }

    def fuse(self) -> NoReturn:
        """Refuses to fuse projections with their adapters.

        Raises:
            ValueError: always.
        """
        raise ValueError("An adapted model is not fused: call merge_and_unload(), and fuse the model that it returns.")

    def add_adapter(self, adapter_name: str, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuses a second adapter.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"adapter {adapter_name!r}: a FATRPeftModel has one adapter, {ADAPTER_NAME!r}, as several "
            "would share the reduction's parameters. Load the model once more for another adapter."
        )

    def load_adapter(self, model_id: Any, adapter_name: str, *args: Any, **kwargs: Any) -> Any:
        """Reads the adapter's weights; arguments as in PeftModel.

        Raises:
            ValueError: weights that this model has no place for, such as those of another schedule.
        """
        result = super().load_adapter(model_id, adapter_name, *args, **kwargs)
        if result.unexpected_keys:
            raise ValueError(
                f"{model_id} holds weights that this model has no place for: {', '.join(result.unexpected_keys)}. "
                "Load the model that the adapter was trained on."
            )
        return result

    def save_pretrained(
        self,
        save_directory: Any,
        safe_serialization: bool = True,
        *,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        """Writes the adapter and the reduction's parameters; arguments as in PeftModel.

        Raises:
            ValueError: ``safe_serialization=False``.
        """
        if not safe_serialization:
            raise ValueError("safe_serialization=False: adapters of FATR models are saved as safetensors only.")
        # A Trainer of a compiled model names its weights so; peft would find none of them.
        weights = {name.removeprefix("_orig_mod."): each for name, each in (state_dict or self.state_dict()).items()}
        super().save_pretrained(save_directory, is_main_process=is_main_process, state_dict=weights, **kwargs)
        if not is_main_process:
            return
        own = {name: weights[name].detach().cpu().contiguous() for name in self.reduction_parameters()}
        path = Path(save_directory) / SAFETENSORS_WEIGHTS_NAME
        save_file({**load_file(path), **own}, path, metadata={"format": "pt"})


def check_saved(model: nn.Module) -> None:
    """Raises a ValueError for an adapted model of which something trains that is not saved, or is named for nothing.

    peft saves its adapters and ``modules_to_save``, and ignores names that no module has.
    """
    if not isinstance(model, PeftModel):
        return
    own = model.reduction_parameters() if isinstance(model, FATRPeftModel) else {}
    for config in model.peft_config.values():
        named = [name for name in getattr(config, "modules_to_save", None) or () if name in REDUCTION_PARAMETERS]
        if named:
            raise ValueError(
                f"modules_to_save names {named[0]!r}, which is no module, so that peft ignores it: adapt the model "
                "with fatr_hf.training.adapters.FATRPeftModel, which trains and saves the reduction's parameters."
            )
    saved = {tensor.data_ptr() for tensor in get_peft_model_state_dict(model).values()}
    saved |= {parameter.data_ptr() for parameter in own.values()}
    lost = [name for name, each in model.named_parameters() if each.requires_grad and each.data_ptr() not in saved]
    if lost:
        raise ValueError(
            f"{len(lost)} parameters train and would not be saved with the adapter, such as {lost[0]}: freeze them, or "
            "for the reduction's own adapt the model with fatr_hf.training.adapters.FATRPeftModel."
        )


def check_matched_names(model: nn.Module, peft_config: PeftConfig) -> None:
    """Raises a ValueError for names in an adapter's configuration that are none of the model's; peft ignores them."""
    modules = [name for name, _ in model.named_modules() if name]
    parameters = [name for name, _ in model.named_parameters()]
    fields = {"target_modules": modules, "exclude_modules": modules, "modules_to_save": modules}
    for field, allowed in {**fields, "target_parameters": parameters}.items():
        names = getattr(peft_config, field, None) or ()
        for name in () if isinstance(names, str) else sorted(names):  # a string is an expression, which peft checks
            last = name.rpartition(".")[2]
            if last in REDUCTION_PARAMETERS:
                raise ValueError(
                    f"{field} names {name!r}, a parameter that trains and is saved in any case: leave it out."
                )
            if not any(f".{each}".endswith(f".{name}") for each in allowed):
                raise ValueError(f"{field} names {name!r}, but the model has only {', '.join(last_parts(allowed))}.")
    for field in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(peft_config, field, None) or ():
            if not any(re.match(rf"(.*\.)?({pattern})$", name) for name in modules):
                raise ValueError(f"{field} names {pattern!r}, which matches none of {', '.join(last_parts(modules))}.")
    layers = getattr(peft_config, "layers_to_transform", None)
    count = sum(isinstance(module, FATRAttention) for module in model.modules())
    for layer in [layers] if isinstance(layers, int) else layers or ():
        if not 0 <= layer < count:
            raise ValueError(f"layers_to_transform names layer {layer}, but the model has layers 0 to {count - 1}.")


def last_parts(names: Iterable[str]) -> list[str]:
    """The last parts of dotted names, without numbers, each once and in order."""
    return [last for last in dict.fromkeys(name.rpartition(".")[2] for name in names) if not last.isdigit()]
