"""What all families share: the interface of a text autoencoder, its outputs, and the cost of its latents in bits."""

from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

GRID_BITS = range(1, 9)
SMALLEST_STEP = 1e-7  # a half-precision scale of a channel that is always 0 is 0 itself


@dataclass
class AutoencoderOutput(ModelOutput):
    """What the forward pass of a text autoencoder returns. A family's own output adds its part losses, named `<part>_loss`.

    Attributes:
        loss (`torch.FloatTensor` of shape `()`): the training loss, in nats a label; with `labels` only.
        logits (`torch.FloatTensor` of shape `(batch, length, vocabulary)`): scores of each label.
        latents (`torch.FloatTensor` of shape `(batch, latent_length, channels)`): what `encode` returns.
        hidden_states, attentions (`tuple`): as everywhere in transformers, where asked for.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    latents: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@contextmanager
def in_use(model):
    """Context in which a model is used and not trained: no dropout, no gradients; it is then as it was."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield model
    finally:
        model.train(training)


class TextAutoencoder(PreTrainedModel):
    """Base of all models of the package.

    A model has these methods, as far as its two flags say:

    - `encode(input_ids, attention_mask, ...) -> latents`;
    - `decode(latents, ...) -> logits`, where `has_decoder`;
    - `reconstruct(texts, tokenizer, ...) -> texts`: encode and decode text without looking at the original again;
    - `latent_bits(latents, ...)`: the bits stored for each text, where `has_bottleneck`;
    - `forward(..., labels) -> output`, whose every `<part>_loss` is logged under that name. Each part is a sum over
      labels divided by `num_items_in_batch`, the number of labels, so that accumulated steps equal one large batch.

    The default bottleneck has no noise: its latents are stored as int8 numbers, or fewer bits, one scale a channel.
    """

    base_model_prefix = "model"
    has_bottleneck = True
    has_decoder = True
    _no_split_modules: list[str] = []

    def latent_scale(self, bits=8):
        """Step of the grid of each channel, shape `(channels,)`: the scale is part of the model, not of the text.

        Args:
            bits (`int`, defaults to 8): for each number, 1 to 8.
        """
        raise TypeError(f"{type(self).__name__} names no scale for its latents, so they cannot be stored as int{bits}")

    def round_latents(self, latents, bits=8):
        """Round latents to what would be stored: `2 ** bits` levels evenly around zero with one step a channel, or bfloat16.

        Source of the levels: the uniform quantizer without a level at zero of Max 1960, "Quantizing for minimum distortion",
        which wastes none of the few levels of a small number of bits.

        Args:
            latents (`torch.Tensor` of shape `(..., channels)`).
            bits (`int`, defaults to 8): for each number; 1 to 8, or 16 for bfloat16.

        Returns:
            `torch.Tensor` of the same shape and dtype.

        Raises:
            ValueError: for another number of bits.
        """
        if bits == 16:
            return latents.to(torch.bfloat16).to(latents.dtype)
        check_bits(bits)
        return on_grid(latents.float(), self.latent_scale(bits).float().clamp(min=SMALLEST_STEP), bits).to(
            latents.dtype
        )

    def latent_bits(self, latents, mask, bits=8):
        """Bits that the latents of each text take once rounded by `round_latents`.

        Args:
            latents (`torch.Tensor` of shape `(batch, latent_length, channels)`).
            mask (`torch.Tensor` of shape `(batch, latent_length)`): which latents are the text's own.
            bits (`int`, defaults to 8): for each number.

        Returns:
            `torch.Tensor` of shape `(batch,)`.

        Raises:
            TypeError: where the model has no bottleneck.
        """
        if not self.has_bottleneck:
            raise TypeError(f"{type(self).__name__} has no bottleneck: its vectors are not stored")
        return mask.sum(-1) * latents.shape[-1] * bits


def check_bits(bits):
    """Refuse a number of bits that no grid has."""
    if not isinstance(bits, int) or bits not in GRID_BITS:
        raise ValueError(f"bits {bits} are no way to store a latent: accepted are 1 to 8, and 16 for bfloat16")


def on_grid(values, step, bits):
    """The nearest of `2 ** bits` levels, half a step, one and a half and so on to either side of zero.

    Args:
        values (`torch.FloatTensor` of shape `(..., channels)`), step (`torch.FloatTensor` of shape `(channels,)`), bits (`int`).

    Returns:
        `torch.FloatTensor` of the values' shape.
    """
    half = 2 ** (bits - 1)
    return ((values / step).floor().clamp(-half, half - 1) + 0.5) * step


def label_cross_entropy(logits, labels, num_items_in_batch=None, focal_gamma=0.0):
    """Cross-entropy in nats, in float32, summed over the labels that are not -100 and divided by their number.

    Args:
        logits (`torch.Tensor` of shape `(..., vocabulary)`).
        labels (`torch.LongTensor` of shape `(...)`): -100 where there is none.
        num_items_in_batch (`int` or `torch.Tensor`, *optional*): the divisor; by default the labels here. At least 1 either
            way: a step whose noise happened to hide nothing has no loss.
        focal_gamma (`float`, defaults to 0): exponent of the factor `(1 - p)`, which turns the loss to what is still
            wrong. Source: Lin et al. 2017, "Focal loss", equation 4, without class weights.

    Returns:
        `torch.FloatTensor` of shape `()`.
    """
    labels = labels.reshape(-1).to(logits.device)
    loss = nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(), labels, ignore_index=-100, reduction="none"
    )
    if focal_gamma:
        loss = loss * (1 - torch.exp(-loss)).clamp(min=0) ** focal_gamma
    return over_labels(loss.sum(), labels, num_items_in_batch)


def over_labels(total, labels, num_items_in_batch):
    """A sum over the labels that are not -100, divided by `num_items_in_batch`, or else by their number, at least 1."""
    if num_items_in_batch is None:
        num_items_in_batch = (labels != -100).sum()
    return total / torch.as_tensor(num_items_in_batch, device=total.device).clamp(min=1)


class LinearCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of linear scores, some rows at a time, so that the scores of all rows never exist at once.

    A large vocabulary's scores are far larger than what they are made of, and writing and reading them is most of what they cost.
    Each part's gradient is computed beside its loss, while its scores are at hand. Scores are in the dtype of autocast, sums in
    float32. There is no second derivative.
    """

    @staticmethod
    def forward(ctx, states, weight, labels, rows):
        """States `(n, size)`, weight `(vocabulary, size)`, labels `(n,)` and the rows of a part, to nats, `()`."""
        kind = states.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
        inputs, matrix = states.to(dtype), weight.to(dtype)
        of_states = torch.empty_like(inputs, dtype=torch.float32)
        # A head that is frozen, as beside an adapter, needs no gradient.
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        loss = torch.zeros((), device=states.device)
        with torch.autocast(kind, enabled=False):
            for low in range(0, len(inputs), rows):
                part, wanted = inputs[low : low + rows], labels[low : low + rows, None]
                scores = part @ matrix.T
                told, peak = scores.gather(1, wanted).float(), scores.amax(1, keepdim=True).float()
                # Shares times their sum: to divide the products is far less work. (logsumexp is slow on a CPU.)
                shares = scores.float().sub_(peak).exp_()
                total = shares.sum(1, keepdim=True)
                loss += (total.log() + peak - told).sum()
                shares = shares.to(dtype)
                of_states[low : low + rows] = (shares @ matrix).float() / total
                if of_weight is not None:
                    of_weight += shares.T @ (part / total).to(dtype)
            of_states -= matrix[labels].float()
            if of_weight is not None:
                of_weight = of_weight.index_add_(0, labels, -inputs.float()).to(weight.dtype)
        ctx.save_for_backward(of_states.to(states.dtype), of_weight)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        """The kept gradients, times the one from above."""
        of_states, of_weight = ctx.saved_tensors
        return of_states * gradient, None if of_weight is None else of_weight * gradient, None, None


def linear_cross_entropy(states, weight, labels, num_items_in_batch=None, rows=256):
    """[`label_cross_entropy`] of the scores `states @ weight.T`, which never exist all at once.

    Args:
        states (`torch.Tensor` of shape `(..., size)`), weight (`torch.Tensor` of shape `(vocabulary, size)`).
        labels (`torch.LongTensor` of shape `(...)`): -100 where there is none.
        num_items_in_batch (`int` or `torch.Tensor`, *optional*): the divisor; by default the labels here, at least 1.
        rows (`int`, defaults to 256): scored at a time.

    Returns:
        `torch.FloatTensor` of shape `()`.
    """
    asked = labels != -100
    total = LinearCrossEntropy.apply(states[asked], weight, labels[asked], rows)
    return over_labels(total, labels, num_items_in_batch)
