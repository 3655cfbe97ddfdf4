"""Normalization in training and evaluation, with and without parameters."""

from tests.conformance.comparison import Case, torch
from tests.conformance.weight_maps import channels_first, channels_last, normalization, running_statistics

import functional_nn as fnn

nn = torch.nn
IMAGES = {"x": channels_last, "y": channels_first}
BATCH_NORM = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
INSTANCE_NORM = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}
SHAPES = [(7, 6), (3, 6, 5), (3, 6, 2, 5), (2, 6, 2, 3, 5)]
"""Channels first, as PyTorch has them."""


def images(shape):
    return IMAGES if len(shape) > 2 else {}


def batch_norm(shape, *, train, momentum=0.1, epsilon=1e-5):
    return Case(
        f"batch_norm{shape}-train={train}-momentum={momentum}-epsilon={epsilon}",
        fnn.batch_norm(momentum=1 - momentum, epsilon=epsilon),
        BATCH_NORM[len(shape)](shape[1], eps=epsilon, momentum=momentum),
        (shape,),
        normalization,
        train=train,
        state=running_statistics,
        steps=2,
        **images(shape),
    )


def layer_norm(shape, *, scale=True, bias=True, epsilon=1e-5):
    theirs = nn.LayerNorm(shape[-1], eps=epsilon, elementwise_affine=scale, bias=bias)
    return Case(
        f"layer_norm{shape}-scale={scale}-bias={bias}-epsilon={epsilon}",
        fnn.layer_norm(epsilon=epsilon, scale=scale, bias=bias),
        theirs,
        (shape,),
        normalization,
    )


def rms_norm(shape, *, scale=True, epsilon=1e-5):
    return Case(
        f"rms_norm{shape}-scale={scale}-epsilon={epsilon}",
        fnn.rms_norm(epsilon=epsilon, scale=scale),
        nn.RMSNorm(shape[-1], eps=epsilon, elementwise_affine=scale),
        (shape,),
        normalization,
    )


def group_norm(shape, groups, *, affine=True, epsilon=1e-5):
    return Case(
        f"group_norm{shape}-groups={groups}-affine={affine}-epsilon={epsilon}",
        fnn.group_norm(groups, epsilon=epsilon, scale=affine, bias=affine),
        nn.GroupNorm(groups, shape[1], eps=epsilon, affine=affine),
        (shape,),
        normalization,
        **images(shape),
    )


def instance_norm(shape, *, affine, epsilon=1e-5):
    return Case(
        f"instance_norm{shape}-affine={affine}-epsilon={epsilon}",
        fnn.instance_norm(epsilon=epsilon, scale=affine, bias=affine),
        INSTANCE_NORM[len(shape)](shape[1], eps=epsilon, affine=affine),
        (shape,),
        normalization,
        **IMAGES,
    )


CASES = [
    *(batch_norm(shape, train=train) for shape in SHAPES for train in (True, False)),
    batch_norm(SHAPES[1], train=True, momentum=0.3, epsilon=0.1),
    batch_norm(SHAPES[1], train=False, momentum=0.3, epsilon=0.1),
    *(layer_norm(shape) for shape in SHAPES),
    layer_norm(SHAPES[1], bias=False),
    layer_norm(SHAPES[1], scale=False, bias=False),
    layer_norm(SHAPES[1], epsilon=0.1),
    *(rms_norm(shape) for shape in SHAPES),
    rms_norm(SHAPES[1], scale=False),
    rms_norm(SHAPES[1], epsilon=0.1),
    *(group_norm(shape, groups) for shape in SHAPES for groups in (1, 2, 3)),
    group_norm(SHAPES[2], 6),
    group_norm(SHAPES[2], 2, affine=False, epsilon=0.1),
    *(instance_norm(shape, affine=affine) for shape in SHAPES[1:] for affine in (True, False)),
    instance_norm(SHAPES[2], affine=True, epsilon=0.1),
]
