"""What the documentation shows works: its Python runs, its commands are known, and what it points to is there."""

import contextlib
import functools
import io
import itertools
import re
import runpy
import shlex
import shutil
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest
import torch
import typer
from accelerate.commands.launch import launch_command_parser
from rounding import assert_rounded_alike
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPVisionConfig,
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    Dinov2Model,
    DPTImageProcessor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from fatr_hf import FATRViTConfig, FATRViTForImageClassification
from fatr_hf_cli import app

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
PLACEHOLDER = "<the commit you have read>"
COMMIT = "c0ffee" + 34 * "0"
MODELS_OF_THE_READER = ("outputs/mine/model", "outputs/photographs/model")
"""Folders that pages take for granted: each is said to be made by a command before."""


class Block(NamedTuple):
    language: str
    text: str


def blocks(page):
    """The fenced blocks of a page, those in lists and notes too."""
    fences = re.findall(r"^( *)```(\S*)[^\n]*\n(.*?)^\1```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [Block(language, textwrap.dedent(text)) for _, language, text in fences]


def pages_with(*languages):
    return [
        pytest.param(page, id=page.name) for page in PAGES if any(block.language in languages for block in blocks(page))
    ]


def depth_anything():
    """A small one, and its processor."""
    sizes = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 3, "mlp_ratio": 2, "image_size": 56}
    backbone = Dinov2Config(**sizes, out_indices=[1, 2, 3, 4], reshape_hidden_states=False)
    widths = {"neck_hidden_sizes": [8, 8, 8, 8], "fusion_hidden_size": 8, "head_hidden_size": 8}
    config = DepthAnythingConfig(backbone_config=backbone, reassemble_hidden_size=24, **widths)
    processor = DPTImageProcessor(size={"height": 56, "width": 56}, ensure_multiple_of=14)
    return DepthAnythingForDepthEstimation(config), processor


def llava():
    """A small one as deep as LLaVA-1.5's, and its processor."""
    sizes = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 48}
    tower = CLIPVisionConfig(**sizes, num_hidden_layers=24, image_size=56, patch_size=14)
    language = LlamaConfig(**sizes, num_hidden_layers=2, vocab_size=99)
    config = LlavaConfig(vision_config=tower, text_config=language, image_token_index=3)
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, "<image>": 3}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="<unk>")))
    images = CLIPImageProcessor(size={"height": 56, "width": 56})
    options = {"vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return LlavaForConditionalGeneration(config), LlavaProcessor(images, tokenizer, patch_size=14, **options)


@pytest.fixture(scope="session")
def hub(tmp_path_factory):
    """A cache of the Hub, as a download leaves it, with tiny models under the names that the pages use."""
    cache = tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    narrow = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 48, "initializer_range": 0.3}
    stock = ViTForImageClassification(ViTConfig(**narrow))
    reduced = FATRViTForImageClassification(FATRViTConfig(**narrow, image_size=32, patch_size=8))
    dinov2 = Dinov2Model(Dinov2Config(hidden_size=24, num_attention_heads=3, mlp_ratio=2, image_size=112))
    text = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 48, "vocab_size": 99}
    clip = CLIPModel(CLIPConfig(vision_config=narrow, text_config=text))
    models = {
        "google/vit-base-patch16-224": stock,
        "user/model": reduced,
        "facebook/dinov2-base": dinov2,
        "openai/clip-vit-base-patch16": clip,
    }
    sides = {name: getattr(model.config, "vision_config", model.config).image_size for name, model in models.items()}
    repositories = {
        "depth-anything/Depth-Anything-V2-Small-hf": depth_anything(),
        "llava-hf/llava-1.5-7b-hf": llava(),
        **{
            name: (model, ViTImageProcessor(size={"height": sides[name], "width": sides[name]}))
            for name, model in models.items()
        },
    }
    for name, parts in repositories.items():
        repository = cache / f"models--{name.replace('/', '--')}"
        for saved in parts:
            saved.save_pretrained(repository / "snapshots" / COMMIT)
        (repository / "refs").mkdir()
        (repository / "refs/main").write_text(COMMIT)
    return cache


@pytest.fixture
def readers_folder(hub, tmp_path, monkeypatch):
    """Where a reader would run the examples: with the Hub's models at hand, and their own."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    monkeypatch.chdir(tmp_path)
    for folder in MODELS_OF_THE_READER:
        shutil.copytree(hub / "models--user--model/snapshots" / COMMIT, folder)
    return tmp_path


CLAIMS = {
    "README.md": ["model.config.model_type == 'fatr_vit'"],
    "analysis.md": [
        "len(ranks) == 13",
        "[each.name for each in comparison.contenders]"
        " == ['unreduced', 'FATR', 'random', 'evit', 'tome', 'pitome', 'pooling']",
    ],
    "dense.md": [
        "type(model).__name__ == 'FATRDepthAnythingForDepthEstimation'",
        "depth.size == (56, 42)",
        "patches.shape == (1, 64, 24)",
    ],
    "detection.md": ["found['boxes'].shape == (100, 4)", "heatmaps.shape == (1, 17, 64, 48)"],
    "diagnosis.md": ["diagnosis.images == 4"],
    "families.md": [
        "type(reduced).__name__ == 'FATRDinov2Model'",
        "type(whole).__name__ == 'FATRCLIPModel'",
    ],
    "finetuning.md": [
        "type(merged).__name__ == 'FATRViTForImageClassification'",
        "model.config.keep_ratio > 0.5",
    ],
    "hub.md": ["type(classifier.model).__name__ == 'FATRViTForImageClassification'"],
    "method.md": ["dense.shape == (2, 64, 48)", "unreduced.logits.shape == (2, 2)"],
    "quickstart.md": ["assert_rounded_alike(logits, reduced) is None", "model.config.model_type == 'fatr_vit'"],
    "schedules.md": ["best in [trial.schedule for trial in result.front]"],
    "video.md": [
        "type(model).__name__ == 'FATRVideoMAEForVideoClassification'",
        "logits.shape == (1, 5)",
        "counts[0] == 64",
    ],
    "speed.md": ["logits.shape == (2, 2)"],
    "vision_language.md": [
        "type(model).__name__ == 'FATRLlavaForConditionalGeneration'",
        "processor.num_additional_image_tokens < 0",
    ],
}
"""What a page says of the values that its examples make."""


@pytest.mark.parametrize("page", pages_with("python"))
def test_python_examples_run(page, readers_folder):
    names = {"__name__": page.stem}
    for block in blocks(page):
        if block.language == "python":
            exec(compile(block.text.replace(PLACEHOLDER, COMMIT), page.name, "exec"), names)
    for claim in CLAIMS.get(page.name, ()):
        assert eval(claim, {**names, "assert_rounded_alike": assert_rounded_alike}), claim


def commands(text):
    """The commands of a shell block as words, without variables that are set for one of them."""
    for line in re.split(r"\n| && | \| ", text.replace("\\\n", " ")):
        words = list(itertools.dropwhile(re.compile(r"[A-Z_]+=").match, shlex.split(line, comments=True)))
        if words:
            yield words


def check_fatr_hf(*words):
    """Reads the words as the command itself would, and stops before it does anything."""
    group = typer.main.get_command(app)
    with contextlib.suppress(typer.Exit):  # --help and --version
        context = group.make_context("fatr-hf", list(words))
        name, command, rest = group.resolve_command(context, list(words))
        command.make_context(name, rest, parent=context)


def check_make(*words):
    makefile = (ROOT / "Makefile").read_text()
    variables = dict(word.split("=", 1) for word in words if "=" in word)
    jobs = [word for word in words if "=" not in word]
    assert [job for job in jobs if not re.search(rf"^{job}:", makefile, re.MULTILINE)] == []
    assert [name for name in variables if not re.search(rf"^{name} \?=", makefile, re.MULTILINE)] == []
    arguments = shlex.split(variables.get("ARGS", ""))
    if jobs == ["bench"]:
        check_fatr_hf("bench", *arguments)
    elif jobs in (["run"], ["study"]):
        check_python({"run": "examples/finetune.py", "study": "examples/study.py"}[jobs[0]], *arguments)


def check_accelerate(launch, *words):
    assert launch == "launch"
    parsed = launch_command_parser().parse_args(words)
    assert parsed.config_file is None or (ROOT / parsed.config_file).is_file()
    check_python(parsed.training_script, *parsed.training_script_args)


def check_ray(*words):
    assert words[:2] == ("job", "submit")
    check_python(*words[words.index("python") + 1 :])


def check_python(script, *words):
    if script == "-m":
        return
    assert (ROOT / script).is_file()
    options = {word for word in words if word.startswith("--")}
    assert not options or options <= options_of(script)


@functools.cache
def options_of(script):
    """The options that a script's ``--help`` lists."""
    path, text = ROOT / script, io.StringIO()
    with (
        mock.patch.object(sys, "argv", [script, "--help"]),
        mock.patch.object(sys, "path", [str(path.parent), *sys.path]),
        contextlib.redirect_stdout(text),
        pytest.raises(SystemExit),
    ):
        runpy.run_path(str(path), run_name="__main__")
    return set(re.findall(r"--\w[\w-]*", text.getvalue()))


CHECKS = {
    "fatr-hf": check_fatr_hf,
    "make": check_make,
    "accelerate": check_accelerate,
    "python": check_python,
    "ray": check_ray,
    "python3": check_python,
}

NOT_OURS = {".", "cd", "curl", "hf", "pip", "pre-commit", "rm", "sha256sum"}
"""Programs whose options are not looked at."""


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words, id=f"{page.name}: {' '.join(words)[:80]}")
        for page in PAGES
        for block in blocks(page)
        if block.language in ("", "bash")
        for words in commands(block.text)
    ],
)
def test_commands_and_their_options_exist(words):
    program = words[0] if words[0] == "." else Path(words[0]).name
    assert program in CHECKS.keys() | NOT_OURS
    if program in CHECKS:
        CHECKS[program](*words[1:])


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("fatr-hf visualise MODEL IMAGES", "No such command"),
        ("fatr-hf bench --suites targets", "No such option"),
        ("make walk", "walk"),
        ("make run PROCESS=2", "PROCESS"),
        ("make run ARGS='--data_set digits'", "--data_set"),
        ("make bench ARGS='--suites targets'", "No such option"),
        ("accelerate launch examples/finetune.py --data_set digits", "--data_set"),
        ("python examples/ablations.py MODEL", "ablations"),
    ],
)
def test_what_does_not_exist_is_seen(words, error):
    [words] = commands(words)
    with pytest.raises(Exception, match=error):
        CHECKS[words[0]](*words[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_of_a_language_that_is_checked(page):
    assert {block.language for block in blocks(page)} <= {"", "bash", "python"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_readmes_token_counts_are_the_models():
    counts = [layer.tokens_out for layer in FATRViTConfig.from_preset("faithful").plan()]
    assert ", ".join(map(str, counts[:8])) in (ROOT / "README.md").read_text()


def test_the_start_page_only_quotes_figures():
    figures = re.findall(r"(?<![\d.])[-+]?\d\.\d+(?: ± \d\.\d+)?", (ROOT / "docs/index.md").read_text())
    sources = "".join(
        (ROOT / name).read_text() for name in ("README.md", "docs/results.md", "docs/study.md", "docs/speed.md")
    )
    assert len(figures) > 4
    assert [figure for figure in figures if figure not in sources] == []
