"""What one step of training is: network, precision, optimizer, update; and how a test is taken."""

import ctypes
import sys

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wnlib.model import ConvPoolCNNC, GaussianNoise, UniformNoise
from wnlib.recipe import Recipe


def find_device(name: str = "auto") -> torch.device:
    """The device of that name, or for "auto" the best one there is.

    Raises:
        ValueError: it is not one of auto, cpu, cuda, mps, or not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next((n for n, is_there in there.items() if is_there), "cpu"))
    if name != "cpu" and name not in there:
        raise ValueError(f"device is auto, cpu, cuda or mps, not {name!r}")
    if not there.get(name, True):
        raise ValueError(f"there is no {name} device here; use cpu, or auto")
    return torch.device(name)


def autocast_type(device: torch.device) -> torch.dtype:
    """The type that convolutions run in: the fastest that the hardware has and training bears."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if device.type == "cpu":
        fast = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.8 and later
        return torch.bfloat16 if fast.get("avx512_bf16") or fast.get("amx_bf16") else torch.float32
    return torch.float32


def keep_memory() -> None:
    """Keep what a step frees for the next step, on a CPU under Linux, in this process.

    By default glibc gives blocks of some megabytes back to the system and asks for them again:
    every page of them is then cleared anew. At width 96 that is a few percent of a step, at times a
    tenth. From 32 MB up, the largest threshold it takes, blocks go back as before.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # malloc.h
        mallopt(mmap_threshold, 32 * 2**20)
        mallopt(trim_threshold, 2**31 - 1)


def build(recipe: Recipe) -> ConvPoolCNNC:
    """The recipe's network, its weights drawn from torch's generator."""
    noise = {"gaussian": GaussianNoise, "uniform": UniformNoise}[recipe.noise](recipe.sigma)
    return ConvPoolCNNC(
        recipe.norm,
        recipe.width,
        noise=noise,
        dropout=recipe.dropout,
        bn_eps=recipe.bn_eps,
        scale=recipe.scale,
        plain=recipe.plain,
    )


def build_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Adam:
    """The recipe's Adam, in one kernel where torch has it, and fit for a CUDA graph in bf16."""
    device = next(model.parameters()).device
    capturable = device.type == "cuda" and autocast_type(device) is torch.bfloat16
    return torch.optim.Adam(
        model.parameters(),
        torch.tensor(recipe.lr, device=device) if capturable else recipe.lr,
        eps=recipe.adam_eps,
        fused=device.type in ("cpu", "cuda"),
        capturable=capturable,
    )


def set_rates(optimizer: torch.optim.Optimizer, recipe: Recipe, epoch: int) -> None:
    """The recipe's learning rate and β₁ of an epoch, counted from 0."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(recipe.lr_at(epoch))  # where a graph reads it
        else:
            group["lr"] = recipe.lr_at(epoch)
        group["betas"] = (recipe.beta1_at(epoch), 0.999)


def training_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    x: Tensor,
    y: Tensor,
) -> tuple[Tensor, Tensor]:
    """Forward, backward and update on images x (B, 3, 32, 32) and labels y (B,).

    Returns:
        The mean cross-entropy, (), and the logits, (B, 10), both detached.
    """
    dtype = autocast_type(x.device)
    with torch.autocast(x.device.type, dtype, enabled=dtype is not torch.float32):
        logits = model(x)
    loss = F.cross_entropy(logits.float(), y)
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    return loss.detach(), logits.detach()


@torch.no_grad()
def evaluate(
    model: nn.Module, images: Tensor, labels: Tensor, batch: int = 500
) -> tuple[float, float]:
    """Mean cross-entropy and error (fraction) in evaluation mode, images (N, …), labels (N,)."""
    dtype = autocast_type(images.device)
    loss = torch.zeros((), device=images.device)
    wrong = torch.zeros((), device=images.device, dtype=torch.long)
    model.eval()
    for x, y in zip(images.split(batch), labels.split(batch), strict=True):
        with torch.autocast(images.device.type, dtype, enabled=dtype is not torch.float32):
            logits = model(x)
        loss += F.cross_entropy(logits.float(), y, reduction="sum")
        wrong += (logits.argmax(1) != y).sum()
    return loss.item() / len(images), wrong.item() / len(images)
