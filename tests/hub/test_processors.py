"""Processors that make as many places for an image as its tower gives tokens."""

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    CLIPImageProcessor,
    LlavaProcessor,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessor,
)

import fatr_hf
from fatr_hf.hub.processors import fit_processor

sys.path.insert(0, str(Path(__file__).parent.parent / "modeling"))
from composite_cases import COMPOSITES, IMAGE_TOKEN
from family_cases import built

PICTURE = Image.linear_gradient("L").convert("RGB")
LATE = {"reduction_layers": [2], "keep_ratio": 0.4, "fold": "similar", "dense_outputs": False}


def tokenizer():
    """One that knows a few words, and the image's token by the number the small models have for it."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "what": 5, "is": 6, "\n": 7, "<image>": IMAGE_TOKEN}
    words |= {f"word{number}": number for number in range(8, 99) if number != IMAGE_TOKEN}
    plain = Tokenizer(WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return fast


def llava_processor(strategy):
    size = {"height": 32, "width": 32}
    images = CLIPImageProcessor(size=size, crop_size=size)
    return LlavaProcessor(images, tokenizer(), patch_size=4, vision_feature_select_strategy=strategy,
                          num_additional_image_tokens=int(strategy == "default"))  # fmt: skip


def paligemma_processor():
    images = SiglipImageProcessor(size={"height": 32, "width": 32})
    images.image_seq_length = 64
    return PaliGemmaProcessor(images, tokenizer())


# PaliGemma's processor makes a NumPy array of a tensor.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "processor"),
    [
        ("llava", llava_processor("default")),
        ("llava-siglip", llava_processor("full")),
        ("paligemma", paligemma_processor()),
    ],
    ids=["llava", "llava-siglip", "paligemma"],
)
def test_places_are_as_many_as_tokens(name, processor, tmp_path):
    model = fatr_hf.convert(built(COMPOSITES[name]), **LATE)
    text = "<image> what is" if name.startswith("llava") else "<image>what"
    before = processor(images=PICTURE, text=text, return_tensors="pt")
    with pytest.raises(ValueError, match="image tokens do not match"):
        model(**before.to(torch.float64))
    fitted = fit_processor(processor, model)
    given = fitted(images=PICTURE, text=text, return_tensors="pt")
    places = int((given["input_ids"] == IMAGE_TOKEN).sum())
    assert places < int((before["input_ids"] == IMAGE_TOKEN).sum())
    with torch.no_grad():
        model(**given.to(torch.float64))
    fitted.save_pretrained(tmp_path)
    again = type(processor).from_pretrained(tmp_path)(images=PICTURE, text=text, return_tensors="pt")
    assert torch.equal(again["input_ids"], given["input_ids"])


def test_a_dense_tower_keeps_its_places():
    model = fatr_hf.convert(built(COMPOSITES["llava"]))
    processor = llava_processor("default")
    assert fit_processor(processor, model).num_additional_image_tokens == processor.num_additional_image_tokens


def test_layers_of_different_lengths_are_refused():
    model = fatr_hf.convert(COMPOSITES["llava"](), reduction_layers=[2], keep_ratio=0.5, dense_outputs=False)
    model.config.vision_feature_layer = [1, -1]
    with pytest.raises(ValueError, match=r"vision_feature_layer=\[1, -1\] reads layers of \[\d+, 65\] tokens"):
        fit_processor(llava_processor("default"), model)


@pytest.mark.parametrize("kind", ["gemma3", "upernet-dinov2"])
def test_other_models_are_refused(kind):
    with pytest.raises(ValueError, match="takes a FATR LLaVA or PaliGemma, not FATR"):
        fit_processor(llava_processor("default"), fatr_hf.convert(COMPOSITES[kind]()))


def test_another_processor_is_refused():
    with pytest.raises(ValueError, match="must be a LlavaProcessor or PaliGemmaProcessor, not CLIPImageProcessor"):
        fit_processor(CLIPImageProcessor(), fatr_hf.convert(COMPOSITES["llava"]()))
