"""The losses of training: cross-entropy with class numbers or shares of classes, and distillation."""

from torch import Tensor
from torch.nn import functional

from .guards import check_number

IGNORED_LABEL = -100
"""What stands for no label, as in torch's cross-entropy."""

# What mixing in half precision, or shares that were written with two digits, may be away from a sum of 1.
_SHARE_TOLERANCE = 0.01


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(teacher || student)`` of the softened class distributions, mean over the batch.

    Args:
        student_logits, teacher_logits: (batch, classes).
        temperature: ``T``, divides the logits.

    Returns:
        Scalar in float32; the factor ``T^2`` keeps the gradient's size independent of the temperature.

    Raises:
        ValueError: logits of unlike shapes, or a temperature that is not positive.
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student_logits are {(*student_logits.shape,)} and teacher_logits {(*teacher_logits.shape,)}: both must "
            "be (batch, classes), of the same images and classes."
        )
    check_number("temperature", temperature, above=0)
    student = functional.log_softmax(student_logits.float() / temperature, dim=1)
    teacher = functional.log_softmax(teacher_logits.float() / temperature, dim=1)
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def classification_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy, mean over the batch, in float32.

    Args:
        logits: (batch, classes).
        labels: (batch,) class numbers, -100 for none; or (batch, classes) of any floating-point type: the share of
            each class.
        label_smoothing: share of every label that is spread evenly over all classes.

    Raises:
        ValueError: labels of another shape, and on the CPU, where they can be read without waiting, labels that are
            no class numbers or shares.
    """
    check_label_shape(labels, tuple(logits.shape))
    if labels.device.type == "cpu":
        check_label_values(labels, logits.shape[1])
    labels = labels.float() if labels.is_floating_point() else labels.long()
    return functional.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)


def check_label_shape(labels: Tensor, shape: tuple[int, ...]) -> None:
    """Raises a ValueError for labels that do not fit logits of a shape (batch, classes)."""
    if labels.is_floating_point() and tuple(labels.shape) != shape:
        raise ValueError(
            f"labels of type {labels.dtype} must be (batch, classes) {shape}, the share of each class, but are "
            f"{(*labels.shape,)}; class numbers must be integers."
        )
    if not labels.is_floating_point() and tuple(labels.shape) != shape[:1]:
        raise ValueError(
            f"labels of type {labels.dtype} must be class numbers (batch,) {shape[:1]}, but are {(*labels.shape,)}. "
            "Shares of the classes are floating-point numbers, whose rows sum to 1; several classes of one image need "
            "config.problem_type='multi_label_classification'."
        )


def check_label_values(labels: Tensor, num_classes: int) -> None:
    """Raises a ValueError for labels (batch,) that are no class numbers, or (batch, classes) that are no shares."""
    if labels.is_floating_point():
        shares = labels.float()
        sums = shares.sum(dim=1)
        # Written so that NaN is refused.
        is_share = (shares >= -_SHARE_TOLERANCE).all(dim=1) & ((sums - 1).abs() <= _SHARE_TOLERANCE)
        if not is_share.all():
            row = int((~is_share).nonzero()[0])
            raise ValueError(
                f"labels[{row}]={[round(value, 4) for value in shares[row].tolist()]} are not the shares of the "
                f"{num_classes} classes: they must lie in [0, 1] and sum to 1, but sum to {sums[row].item():g}. Labels "
                "of several classes at once need config.problem_type='multi_label_classification', numbers to predict "
                "'regression'."
            )
    else:
        numbers = labels.long()
        wrong = numbers[((numbers < 0) | (numbers >= num_classes)) & (numbers != IGNORED_LABEL)]
        if wrong.numel():
            raise ValueError(
                f"labels hold {wrong[0].item()}, but the model has {num_classes} classes: class numbers go from 0 to "
                f"{num_classes - 1}."
            )
