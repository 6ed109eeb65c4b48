"""What would go wrong without a word on several processes, or without an accelerator: refused beforehand."""

from transformers import TrainingArguments


def check_data_size(images: int, arguments: TrainingArguments) -> None:
    """Refuses a training set that does not fill one step of every process.

    accelerate fills the batches up by repeating images, so that a step would weigh some of them more than once; with
    ``dataloader_drop_last`` there would be no step at all, of which the Trainer says that ``max_steps`` is not set.

    Args:
        images: of the training set.
        arguments: say the batch of a process and how many there are.

    Raises:
        ValueError: fewer images than batch times processes. One process without ``dataloader_drop_last`` needs only
            one: its last batch may be smaller.
    """
    if images < 1:
        raise ValueError("The training set holds no images.")
    processes, batch = arguments.world_size, arguments.train_batch_size
    needed = processes * batch if processes > 1 or arguments.dataloader_drop_last else 1
    if images < needed:
        smaller = f"a per_device_train_batch_size of at most {images // processes}" if images >= processes else ""
        fewer = f"at most {images // batch} processes" if images >= batch else ""
        cures = " or ".join(filter(None, ("more images", smaller, fewer)))
        raise ValueError(
            f"The training set holds {images} images, a step needs {needed}: per_device_train_batch_size={batch} on "
            f"{processes} {'process' if processes == 1 else 'processes'}. Use {cures}."
        )


def check_float16(arguments: TrainingArguments) -> None:
    """Refuses ``fp16`` where there is no accelerator: accelerate would train in float32 and still call it fp16.

    Raises:
        ValueError: fp16, asked for by the arguments or by ``accelerate launch``, on the CPU.
    """
    if arguments.device.type == "cpu" and arguments.mixed_precision == "fp16":
        raise ValueError(
            "Mixed precision fp16 needs a GPU, and this run is on the CPU: use bf16 (--bf16 true, or --mixed_precision "
            "bf16 of accelerate launch) or none."
        )
