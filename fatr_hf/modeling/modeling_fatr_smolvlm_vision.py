# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""SmolVLM's vision tower with frequency-aware token reduction: no CLS, and images of any size without padding."""

from typing import ClassVar

from transformers.models.smolvlm.modeling_smolvlm import SmolVLMVisionEmbeddings, SmolVLMVisionTransformer

from .configuration_fatr_smolvlm_vision import FATRSmolVLMVisionConfig
from .stock_names import register_names
from .whole_images import WholeImageEncoder


class FATRSmolVLMVisionTransformer(WholeImageEncoder, SmolVLMVisionTransformer):
    """The tower: ``SmolVLMVisionTransformer`` with token reduction. Its last hidden state is the reduced sequence."""

    config_class = FATRSmolVLMVisionConfig
    config: FATRSmolVLMVisionConfig
    main_input_name = "pixel_values"
    _auto_class = "AutoModel"
    auto_classes: ClassVar[dict[str, str]] = {"AutoModel": "FATRSmolVLMVisionTransformer"}
    _no_split_modules = ["SmolVLMVisionEmbeddings", "FATRLayer"]

    def __init__(self, config: FATRSmolVLMVisionConfig):
        super(SmolVLMVisionTransformer, self).__init__(config)
        self.build(SmolVLMVisionEmbeddings(config))


register_names(FATRSmolVLMVisionTransformer)
