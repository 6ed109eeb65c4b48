import copy
from itertools import chain

import pytest
import torch
from accelerate import PartialState, skip_first_batches
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from fatr_hf.training.preprocessing import collate
from fatr_hf.training.repeated_sampler import RepeatedSampler, SetSamplerEpoch


@pytest.fixture(autouse=True)
def one_cpu_process():
    PartialState(cpu=True)


def shard(sampler, batch_size, processes=1, process=0):
    """The loader that accelerate makes of one for a data set of which every image is its own number."""
    loader = DataLoader(range(len(sampler)), batch_size=batch_size, sampler=sampler)
    return prepare_data_loader(loader, num_processes=processes, process_index=process, put_on_device=False)


def shards(batch_size, processes, **sampler):
    return [shard(RepeatedSampler(**sampler), batch_size, processes, process) for process in range(processes)]


def batches(loader):
    return [batch.tolist() for batch in loader]


@pytest.mark.parametrize(("images", "repeats"), [(12, 3), (13, 3), (14, 3), (5, 1), (2, 3), (1, 1)])
def test_each_drawn_image_comes_so_often_in_a_row(images, repeats):
    order = list(RepeatedSampler(images, repeats))
    assert len(order) == len(RepeatedSampler(images, repeats)) == images
    drawn = [order[start : start + repeats] for start in range(0, images, repeats)]
    assert all(len(set(copies)) == 1 for copies in drawn)
    assert len({copies[0] for copies in drawn}) == len(drawn)
    assert set(order) <= set(range(images))


def test_without_repeats_it_is_a_permutation():
    order = list(RepeatedSampler(20, 1))
    assert sorted(order) == list(range(20))
    assert order != list(range(20))


def test_epochs_together_draw_every_image():
    sampler, seen = RepeatedSampler(30, 3), set()
    for epoch in range(25):
        sampler.set_epoch(epoch)
        seen |= set(sampler)
    assert seen == set(range(30))


def test_seed_and_epoch_alone_decide():
    sampler = RepeatedSampler(30, 3, seed=4)
    first = list(sampler)
    torch.manual_seed(99)
    assert list(sampler) == first == list(RepeatedSampler(30, 3, seed=4))
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(RepeatedSampler(30, 3, seed=5)) != first
    sampler.set_epoch(0)
    assert list(sampler) == first


def test_drawing_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    list(RepeatedSampler(30, 3))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("epoch", [0, 2])
def test_two_shards_together_are_the_unsharded_order(epoch):
    loaders = shards(batch_size=4, processes=2, num_images=32, repeats=3, seed=1)
    for loader in loaders:
        loader.set_epoch(epoch)
    together = [batch for pair in zip(*map(batches, loaders), strict=True) for batch in pair]
    sampler = RepeatedSampler(32, 3, seed=1)
    sampler.set_epoch(epoch)
    assert [*chain(*together)] == list(sampler)


def test_shards_go_on_to_the_next_epoch_by_themselves():
    loaders = shards(batch_size=4, processes=2, num_images=32, repeats=3)
    first, second = ([batches(loader) for loader in loaders] for _ in range(2))
    assert first != second
    again = shards(batch_size=4, processes=2, num_images=32, repeats=3)
    for loader in again:
        loader.set_epoch(1)
    assert [batches(loader) for loader in again] == second


@pytest.mark.parametrize("processes", [1, 2])
def test_resuming_within_an_epoch_goes_on_in_its_order(processes):
    options = {"num_images": 32, "repeats": 3, "seed": 1}
    for loader, resumed in zip(shards(4, processes, **options), shards(4, processes, **options), strict=True):
        loader.set_epoch(2)
        # What the Trainer does: it announces the epoch, and skips in a loader that accelerate makes of this one.
        SetSamplerEpoch().on_epoch_begin(None, TrainerState(epoch=2.25), TrainerControl(), train_dataloader=resumed)
        rest = skip_first_batches(resumed, 2)
        rest.set_epoch(2)
        assert batches(rest) == batches(loader)[2:]


class RepeatingTrainer(Trainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.add_callback(SetSamplerEpoch())
        self.seen = []

    def _get_train_sampler(self, train_dataset=None):
        return RepeatedSampler(len(self.train_dataset), 3, seed=self.args.seed)

    def training_step(self, model, inputs, *args, **kwargs):
        self.seen.append(inputs["pixel_values"][:, 0, 0, 0].int().tolist())
        return super().training_step(model, inputs, *args, **kwargs)


def test_trainer_takes_its_order_and_resumes_in_it(stock, tmp_path):
    images = [{"pixel_values": torch.full((3, 32, 32), float(number)), "labels": number % 5} for number in range(12)]

    def train(resume=None):
        arguments = TrainingArguments(
            output_dir=str(tmp_path / "run"),
            num_train_epochs=2,
            per_device_train_batch_size=4,
            save_steps=5,
            seed=3,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        trainer = RepeatingTrainer(copy.deepcopy(stock), arguments, data_collator=collate, train_dataset=images)
        trainer.train(resume_from_checkpoint=resume)
        return trainer.seen

    seen = train()
    expected = []
    for epoch in range(2):
        sampler = RepeatedSampler(12, 3, seed=3)
        sampler.set_epoch(epoch)
        expected += sampler
    assert [*chain(*seen)] == expected
    # Step 5 of 6 is within the second epoch.
    assert train(str(tmp_path / "run" / "checkpoint-5")) == seen[5:]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"num_images": 0, "repeats": 3}, "num_images=0 must be a positive integer"),
        ({"num_images": 3, "repeats": 0}, "repeats=0 must be a positive integer"),
        ({"num_images": 3, "repeats": 1, "seed": -1}, "seed=-1 must be an integer from 0"),
    ],
)
def test_bad_arguments_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        RepeatedSampler(**fields)
