"""Optimise ALIGN's image encoder, an EfficientNet, for inference: fold batch norms, pool by mean, use channels_last."""

from itertools import pairwise
from typing import Any

import torch
from torch.nn.utils.fusion import fuse_conv_bn_eval


def optimise_for_inference(model: Any) -> None:
    """Change the model in place; it computes the same function with a third of the memory traffic.

    Call this while the weights are float32, before they are cast.
    """
    fold_batch_norms(model.vision_model)
    pool_by_mean(model.vision_model)
    model.vision_model.to(memory_format=torch.channels_last)


def fold_batch_norms(module: torch.nn.Module) -> None:
    """Fold each batch norm into the convolution before it, in place.

    This assumes that modules run in the order in which they were defined, as EfficientNet's do.
    """
    for parent in list(module.modules()):
        children = list(parent.named_children())
        for (conv_name, conv), (norm_name, norm) in pairwise(children):
            if isinstance(conv, torch.nn.Conv2d) and isinstance(norm, torch.nn.BatchNorm2d):
                setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, norm_name, torch.nn.Identity())


def pool_by_mean(model: Any) -> None:
    """Replace the last pooling by a mean over the feature map, in place.

    Its window is 2,560 x 2,560 for every map size. Compiled, it visits the whole window, which took three quarters of
    the image encoder's time on an H200.
    """
    if isinstance(model.pooler, torch.nn.AvgPool2d):
        model.pooler = torch.nn.AdaptiveAvgPool2d(1)
