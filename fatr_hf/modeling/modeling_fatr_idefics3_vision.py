# Copyright 2026 The fatr_hf authors. Licensed under the Apache License, Version 2.0.
"""Idefics3's vision tower with frequency-aware token reduction: no CLS, and images of any size without padding."""

from typing import ClassVar

from transformers.models.idefics3.modeling_idefics3 import Idefics3VisionEmbeddings, Idefics3VisionTransformer

from .configuration_fatr_idefics3_vision import FATRIdefics3VisionConfig
from .stock_names import register_names
from .whole_images import WholeImageEncoder


class FATRIdefics3VisionTransformer(WholeImageEncoder, Idefics3VisionTransformer):
    """The tower: ``Idefics3VisionTransformer`` with token reduction. Its last hidden state is the reduced sequence."""

    config_class = FATRIdefics3VisionConfig
    config: FATRIdefics3VisionConfig
    main_input_name = "pixel_values"
    _auto_class = "AutoModel"
    auto_classes: ClassVar[dict[str, str]] = {"AutoModel": "FATRIdefics3VisionTransformer"}
    _no_split_modules = ["Idefics3VisionEmbeddings", "FATRLayer"]

    def __init__(self, config: FATRIdefics3VisionConfig):
        super(Idefics3VisionTransformer, self).__init__(config)
        self.build(Idefics3VisionEmbeddings(config))


register_names(FATRIdefics3VisionTransformer)
