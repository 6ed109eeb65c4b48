"""Adapters of peft on a FATR model: what trains, what is saved, merging, and training with the Trainer."""

import copy
import shutil
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, TaskType, get_peft_model
from rounding import assert_rounded_alike
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

from fatr_hf import FATRViTForImageClassification, FATRViTModel
from fatr_hf.training.adapters import REDUCTION_PARAMETERS, FATRPeftModel, check_saved
from fatr_hf.training.ema import EMA_FILE, EMACallback
from fatr_hf.training.keep_ratio_callbacks import ElasticKeepRatio, KeepRatioWarmup
from fatr_hf.training.preprocessing import collate
from fatr_hf.training.reduction_log import ReductionLogCallback
from fatr_hf.training.trainer import distillation_loss

CONFIGS = {
    "attention": {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["classifier"]},
    "mlp": {"target_modules": ["fc1", "fc2"]},
    "mlp and whole attention": {"target_modules": ["fc1", "fc2"], "modules_to_save": ["attention"]},
    "all": {"target_modules": "all-linear", "modules_to_save": ["classifier"]},
    "expression": {"target_modules": r".*\.[12]\.mlp\.fc1", "modules_to_save": ["reduction"]},
    "dora": {"target_modules": ["o_proj"], "use_dora": True},
}

any_config = pytest.mark.parametrize("fields", CONFIGS.values(), ids=CONFIGS)


def adapted(model, **fields):
    """An adapted model whose trained parameters differ from their start, as after training."""
    model = FATRPeftModel(model, LoraConfig(r=2, **(fields or CONFIGS["attention"]))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def trained(model):
    return {name: each.detach().clone() for name, each in model.named_parameters() if each.requires_grad}


def saved_name(name):
    return name.replace(".default", "").replace(".modules_to_save", "")


def saved_names(model):
    return {saved_name(name) for name in trained(model)}


@torch.no_grad()
def logits(model, pixel_values):
    return model(pixel_values=pixel_values).logits


def assert_equal(one, other):
    torch.testing.assert_close(one, other, atol=0, rtol=0)


def test_adapter_classifier_and_the_reductions_parameters_train(make_fatr):
    model = make_fatr()
    own = {name for name, _ in model.named_parameters() if name.endswith(REDUCTION_PARAMETERS)}
    model = FATRPeftModel(model, LoraConfig(r=2, **CONFIGS["attention"]))
    layers = [f"vit.layers.{layer}.attention" for layer in range(4)]
    lora = {
        f"{layer}.{name}.lora_{part}.default.weight"
        for layer in layers
        for name in ("q_proj", "v_proj")
        for part in "AB"
    }
    classifier = {f"classifier.modules_to_save.default.{name}" for name in ("weight", "bias")}
    assert {name.removeprefix("base_model.model.") for name in trained(model)} == own | lora | classifier
    assert {name.rpartition(".")[2] for name in own} == {*REDUCTION_PARAMETERS}


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
@pytest.mark.parametrize("loader", [PeftModel, FATRPeftModel])
@any_config
def test_what_is_saved_computes_the_same(fields, loader, low_cpu_mem_usage, fatr_folder, pixel_values, tmp_path):
    model = adapted(FATRViTForImageClassification.from_pretrained(fatr_folder), **fields)
    start = trained(
        FATRPeftModel(FATRViTForImageClassification.from_pretrained(fatr_folder), LoraConfig(r=2, **fields))
    )
    assert [name for name, each in trained(model).items() if torch.equal(each, start[name])] == []
    model.save_pretrained(tmp_path / "adapter")
    saved = load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert sum(each.numel() for each in saved.values()) == sum(each.numel() for each in trained(model).values())
    loaded = loader.from_pretrained(
        FATRViTForImageClassification.from_pretrained(fatr_folder),
        tmp_path / "adapter",
        low_cpu_mem_usage=low_cpu_mem_usage,
    ).eval()
    assert_rounded_alike(logits(loaded, pixel_values), logits(model, pixel_values))
    assert trained(loaded) == {}
    assert model.peft_config["default"].base_model_name_or_path == str(fatr_folder)


def test_loaded_to_train_trains_what_trained(make_fatr, tmp_path):
    start = make_fatr()
    model = adapted(copy.deepcopy(start))
    model.save_pretrained(tmp_path)
    loaded = FATRPeftModel.from_pretrained(copy.deepcopy(start), tmp_path, is_trainable=True)
    assert_equal(trained(loaded), trained(model))


@pytest.mark.parametrize(
    "config", [IA3Config(target_modules=["k_proj", "fc2"], feedforward_modules=["fc2"])], ids=["ia3"]
)
def test_other_methods_and_encoders(config, fatr_folder, pixel_values, tmp_path):
    model = FATRPeftModel(FATRViTModel.from_pretrained(fatr_folder), config).eval()
    assert any(name.endswith("omega1") for name in trained(model))
    with torch.no_grad():
        for parameter in trained(model):
            model.get_parameter(parameter).mul_(1.5)
        model.save_pretrained(tmp_path / "adapter")
        loaded = PeftModel.from_pretrained(FATRViTModel.from_pretrained(fatr_folder), tmp_path / "adapter").eval()
        expected, found = (each(pixel_values=pixel_values).last_hidden_state for each in (model, loaded))
    assert_equal(found, expected)


@any_config
def test_merged_model_is_a_plain_one(fields, make_fatr, pixel_values, tmp_path):
    """In float64: merging rounds each weight once, so that logits of order 1 differ by some 1e-15."""
    model, pixel_values = adapted(make_fatr().double(), **fields).double(), pixel_values.double()
    expected = logits(model, pixel_values)
    names = {*make_fatr().state_dict()}
    merged = model.merge_and_unload()
    assert type(merged) is FATRViTForImageClassification
    assert {*merged.state_dict()} == names
    torch.testing.assert_close(logits(merged, pixel_values), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(logits(merged.fuse(), pixel_values), expected, atol=1e-12, rtol=0)
    merged.save_pretrained(tmp_path / "merged")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "merged", dtype=torch.float64).eval()
    assert_rounded_alike(logits(loaded, pixel_values), logits(merged, pixel_values))


@any_config
def test_adapters_are_merged_before_fusing(fields, make_fatr):
    with pytest.raises(ValueError, match=r"An adapted model is not fused: call merge_and_unload\(\)"):
        adapted(make_fatr(), **fields).fuse()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"modules_to_save": ["omega1"]}, "modules_to_save names 'omega1', a parameter that trains"),
        (
            {"modules_to_save": ["reduction.dc_position_embeddings"]},
            "names 'reduction.dc_position_embeddings', a param",
        ),
        ({"target_parameters": ["attention.omega2"]}, "target_parameters names 'attention.omega2', a parameter that"),
        ({"modules_to_save": ["classifier", "clasifier"]}, "modules_to_save names 'clasifier', but .* classifier"),
        ({"modules_to_save": ["ifier"]}, "modules_to_save names 'ifier'"),
        ({"target_modules": ["q_proj", "query"]}, "target_modules names 'query', but the model has only .*q_proj"),
        ({"exclude_modules": ["layer.0"]}, "exclude_modules names 'layer.0'"),
        ({"target_parameters": ["fc1.weigth"]}, "target_parameters names 'fc1.weigth', but the model has only"),
        ({"rank_pattern": {"query": 4}}, "rank_pattern names 'query', which matches none of .*q_proj"),
        ({"alpha_pattern": {r"layers\.9\..*": 4}}, "alpha_pattern names .*, which matches none of"),
        ({"layers_to_transform": [1, 4]}, "layers_to_transform names layer 4, but the model has layers 0 to 3"),
        ({"target_modules": r".*\.query"}, "Target modules .* not found in the base model"),
        ({"task_type": TaskType.SEQ_CLS}, "task_type=.*SEQ_CLS.* is for models of text"),
    ],
)
def test_names_of_nothing_are_refused(make_fatr, fields, words):
    with pytest.raises(ValueError, match=words):
        FATRPeftModel(make_fatr(), LoraConfig(**{"target_modules": ["q_proj"], **fields}))


def test_models_that_take_no_adapter_are_refused(make_fatr, tmp_path):
    config = LoraConfig(target_modules=["o_proj"])
    with pytest.raises(ValueError, match="A fused model takes no adapter"):
        FATRPeftModel(make_fatr().fuse(), config)
    with pytest.raises(ValueError, match="A compiled model takes no adapter"):
        FATRPeftModel(torch.compile(make_fatr()), config)
    with pytest.raises(ValueError, match="adapter_name='other': the one adapter is 'default'"):
        FATRPeftModel(make_fatr(), config, "other")
    model = adapted(make_fatr())
    for inner in (model, model.get_base_model()):
        with pytest.raises(ValueError, match="has an adapter already"):
            FATRPeftModel(inner, config)
    with pytest.raises(ValueError, match="adapter 'other': a FATRPeftModel has one adapter, 'default'"):
        model.add_adapter("other", config)
    with pytest.raises(ValueError, match="saved as safetensors only"):
        model.save_pretrained(tmp_path, safe_serialization=False)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="adapter 'other': a FATRPeftModel has one adapter"):
        model.load_adapter(tmp_path, "other")
    with pytest.raises(ValueError, match=r"no place for: .*omega1.*Load the model that the adapter was trained on"):
        FATRPeftModel.from_pretrained(make_fatr(reweight_attention=False), tmp_path)


SETTINGS = {"per_device_train_batch_size": 16, "learning_rate": 1e-2, "optim": "adamw_torch"}
SETTINGS |= {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}


def test_training_saves_and_resumes(make_fatr, make_trainer, images, tmp_path):
    start, finished = make_fatr(hidden_dropout_prob=0.1), []
    for checkpoint in (None, True):
        torch.manual_seed(0)
        model = FATRPeftModel(copy.deepcopy(start), LoraConfig(r=2, **CONFIGS["attention"]))
        before = trained(model)
        trainer = make_trainer(model, {"ema_decay": 0.9}, **SETTINGS)
        folder = trainer.args.output_dir
        trainer.train(resume_from_checkpoint=checkpoint)
        finished.append((trained(model), trainer.ema.local_averages(model), trainer.evaluate()["eval_loss"]))
        shutil.move(f"{folder}/checkpoint-4", tmp_path / f"finished-{checkpoint}")
    assert_equal(finished[0], finished[1])
    same = [name for name, each in finished[0][0].items() if torch.equal(each, before[name])]
    # The classifier reads CLS alone, on which DC tokens of the last layer's reduction have no effect.
    assert same == ["base_model.model.vit.layers.3.reduction.dc_position_embeddings"]
    frozen = {name: each for name, each in model.get_base_model().named_parameters() if not each.requires_grad}
    originals = dict(start.named_parameters())
    for name, each in frozen.items():
        assert torch.equal(each, originals[name.replace(".base_layer", "").replace(".original_module", "")]), name
    loaded = PeftModel.from_pretrained(copy.deepcopy(start), tmp_path / "finished-True").eval()
    batch = collate(images)["pixel_values"]
    assert_rounded_alike(logits(loaded, batch), logits(model.eval(), batch))


def test_compiling_trainer_saves_clean_names_and_resumes(make_fatr, make_trainer):
    settings = {**SETTINGS, "save_steps": 1, "torch_compile": True, "torch_compile_backend": "eager"}
    files = []
    for checkpoint in (None, True):
        torch.manual_seed(0)
        model = FATRPeftModel(make_fatr(), LoraConfig(r=2, **CONFIGS["attention"]))
        trainer = make_trainer(model, {"ema_decay": 0.9}, **settings)
        trainer.train(resume_from_checkpoint=checkpoint)
        last = Path(trainer.args.output_dir) / "checkpoint-4"
        files.append([load_file(last / name) for name in ("adapter_model.safetensors", EMA_FILE)])
        shutil.rmtree(last)
    assert_equal(files[0], files[1])
    assert files[0][0].keys() == saved_names(model)
    assert files[0][1].keys() == trained(model).keys()


def test_compiled_adapter_is_saved_by_clean_names(make_fatr, tmp_path):
    model = adapted(make_fatr())
    compiled = torch.compile(model)
    compiled.save_pretrained(tmp_path / "own")
    compiled.save_pretrained(tmp_path / "given", state_dict=compiled.state_dict())  # as the Trainer calls it
    own, given = (load_file(tmp_path / folder / "adapter_model.safetensors") for folder in ("own", "given"))
    assert own.keys() == saved_names(model)
    assert_equal(own, given)


def test_average_holds_what_trains(make_fatr, make_trainer, images):
    model = FATRPeftModel(make_fatr(), LoraConfig(r=2, **CONFIGS["attention"]))
    trainer = make_trainer(model, {"ema_decay": 0.9, "teacher": "ema", "distillation_weight": 0.5}, **SETTINGS)
    trainer.train()
    own = trained(model)
    assert load_file(f"{trainer.args.output_dir}/checkpoint-4/{EMA_FILE}").keys() == own.keys()
    batch = collate(images[:8])
    measured = trainer.predict(images[:8]).predictions
    assert_equal(trained(model), own)
    raw = logits(model.eval(), batch["pixel_values"])
    averaged = copy.deepcopy(model)
    averaged.load_state_dict(trainer.ema.local_averages(model), strict=False)
    expected = logits(averaged, batch["pixel_values"])
    torch.testing.assert_close(torch.from_numpy(measured), expected, atol=1e-5, rtol=0)
    assert (raw - expected).abs().max() > 1e-4
    assert_equal(trainer.teacher_logits({"pixel_values": batch["pixel_values"]}), expected)
    assert torch.isfinite(distillation_loss(raw, expected, 1.0))
    trainer.use_averaged_weights()
    assert_rounded_alike(logits(model, batch["pixel_values"]), expected)


def test_best_adapter_comes_back(make_fatr, make_trainer):
    """The loss falls; as the highest is asked for, the first checkpoint is the best."""
    settings = {**SETTINGS, "eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}
    settings |= {"metric_for_best_model": "loss", "greater_is_better": True, "per_device_train_batch_size": 64}
    model = FATRPeftModel(make_fatr(), LoraConfig(r=2, **CONFIGS["attention"]))
    trainer = make_trainer(model, {"ema_decay": 0.9}, **settings)
    trainer.train()
    best = trainer.state.best_model_checkpoint
    assert best.endswith("checkpoint-2")
    saved = load_file(f"{best}/adapter_model.safetensors")
    assert_equal(dict(zip(map(saved_name, trained(model)), trained(model).values(), strict=True)), saved)
    assert_equal(trainer.ema.local_averages(model), load_file(f"{best}/{EMA_FILE}"))


def test_frozen_weights_have_no_average(make_fatr):
    model, callback = make_fatr(), EMACallback(0.9)
    model.vit.embeddings.requires_grad_(False)
    callback.start(model)
    callback.update(model)
    assert callback.names == tuple(trained(model))
    model.requires_grad_(False)
    assert callback.local_averages(model).keys() == {*callback.names}  # also after training
    model.requires_grad_(True)
    with pytest.raises(ValueError, match=r"vit.embeddings.cls_token, .* did not train when the average started"):
        callback.update(model)


@pytest.mark.parametrize("callback", [ElasticKeepRatio(0.4, 0.6), KeepRatioWarmup(2)], ids=["elastic", "warm-up"])
@pytest.mark.parametrize("wrap", [FATRPeftModel, get_peft_model])
def test_callbacks_that_change_the_reduction_refuse_an_adapted_model(make_fatr, make_trainer, callback, wrap):
    model = wrap(make_fatr(), LoraConfig(target_modules=["q_proj"]))
    trainer = make_trainer(model, {"callbacks": [callback]})
    words = f"{type(callback).__name__} changes the reduction of a FATR model, which {type(model).__name__} is not"
    with pytest.raises(ValueError, match=words):
        trainer.train()
    with pytest.raises(ValueError, match=f"The reduction of a {type(model).__name__} cannot be logged"):
        ReductionLogCallback(trainer)


def test_names_that_peft_ignores_are_refused_by_the_trainer(make_fatr, make_trainer):
    model = get_peft_model(make_fatr(), LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["omega1"]))
    with pytest.raises(ValueError, match=r"modules_to_save names 'omega1', which is no module.*FATRPeftModel"):
        make_trainer(model).train()


def test_parameters_that_peft_would_not_save_are_refused_by_the_trainer(make_fatr, make_trainer):
    model = get_peft_model(make_fatr(), LoraConfig(r=2, target_modules=["q_proj"]))
    for name, parameter in model.named_parameters():
        if "omega" in name:
            parameter.requires_grad_(True)
    with pytest.raises(ValueError, match=r"\d parameters train and would not be saved .*omega1: freeze them"):
        make_trainer(model).train()


@any_config
def test_what_a_fatr_adapter_trains_is_saved(make_fatr, fields):
    check_saved(FATRPeftModel(make_fatr(), LoraConfig(r=2, **fields)))


def test_a_wrapped_attention_has_no_fused_copy(make_fatr):
    model = get_peft_model(make_fatr(), LoraConfig(r=2, target_modules=["fc1"], modules_to_save=["attention"]))
    with pytest.raises(ValueError, match=r"layers\.0\.attention is ModulesToSaveWrapper: merge adapters first"):
        model.fuse()
