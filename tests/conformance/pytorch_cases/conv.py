"""Convolutions, transposed convolutions and pooling over one, two and three axes."""

import itertools

from tests.conformance.comparison import BATCH, Case, torch
from tests.conformance.weight_maps import channels_first, channels_last, convolution

import functional_nn as fnn

SIZES = {1: (13,), 2: (11, 7), 3: (5, 7, 4)}
WINDOWS = {1: (3,), 2: (2, 3), 3: (2, 3, 2)}
CONV = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}
CONV_TRANSPOSE = {1: torch.nn.ConvTranspose1d, 2: torch.nn.ConvTranspose2d, 3: torch.nn.ConvTranspose3d}
MAX_POOL = {1: torch.nn.MaxPool1d, 2: torch.nn.MaxPool2d, 3: torch.nn.MaxPool3d}
AVERAGE_POOL = {1: torch.nn.AvgPool1d, 2: torch.nn.AvgPool2d, 3: torch.nn.AvgPool3d}
GLOBAL_AVERAGE = {1: torch.nn.AdaptiveAvgPool1d, 2: torch.nn.AdaptiveAvgPool2d, 3: torch.nn.AdaptiveAvgPool3d}
GLOBAL_MAX = {1: torch.nn.AdaptiveMaxPool1d, 2: torch.nn.AdaptiveMaxPool2d, 3: torch.nn.AdaptiveMaxPool3d}

IMAGES = {"x": channels_last, "y": channels_first}
DISTINCT = {1: (2,), 2: (2, 3), 3: (2, 1, 3)}
"""A number for each axis, for settings that differ between them."""


def named(kind, axes, **settings):
    parts = (f"{name}={value}".replace(" ", "") for name, value in settings.items())
    return f"{kind}{axes}d({','.join(parts)})"


def conv(axes, *, stride=1, padding=0, dilation=1, groups=1, bias=True, out_size=None, in_size=None, lowering="auto"):
    in_size, out_size = in_size or (2 if groups == 1 else 3 * groups), out_size or (5 if groups == 1 else 2 * groups)
    pads = padding if isinstance(padding, tuple) else (padding,) * axes
    settings = {"stride": stride, "dilation": dilation, "groups": groups, "bias": bias}
    same = padding == "same"
    return Case(
        named("conv", axes, padding=padding, channels=(in_size, out_size), lowering=lowering, **settings),
        fnn.conv(
            out_size,
            WINDOWS[axes],
            padding="same" if same else [(pad, pad) for pad in pads],
            lowering=lowering,
            **settings,
        ),
        CONV[axes](in_size, out_size, WINDOWS[axes], padding=padding, **settings),
        ((BATCH, in_size, *SIZES[axes]),),
        weights=convolution,
        **IMAGES,
    )


def conv_transpose(axes, *, stride=1, padding=0, output_padding=0, dilation=1, groups=1, bias=True):
    in_size, out_size = (2, 5) if groups == 1 else (3 * groups, 2 * groups)
    pads, extra = (value if isinstance(value, tuple) else (value,) * axes for value in (padding, output_padding))
    settings = {"stride": stride, "dilation": dilation, "groups": groups, "bias": bias}
    theirs = {"padding": padding, "output_padding": output_padding}
    return Case(
        named("conv_transpose", axes, **theirs, **settings),
        fnn.conv_transpose(
            out_size, WINDOWS[axes], padding=[(p, p - q) for p, q in zip(pads, extra, strict=True)], **settings
        ),
        CONV_TRANSPOSE[axes](in_size, out_size, WINDOWS[axes], **theirs, **settings),
        ((BATCH, in_size, *SIZES[axes]),),
        weights=convolution,
        **IMAGES,
    )


def pool(axes, kind, *, stride=None, padding=0, **options):
    pads = padding if isinstance(padding, tuple) else (padding,) * axes
    theirs = {"max_pool": MAX_POOL, "average_pool": AVERAGE_POOL}[kind][axes]
    counted = {"count_include_pad": options["count_padding"]} if options else {}
    return Case(
        named(kind, axes, stride=stride, padding=padding, **options),
        getattr(fnn, kind)(WINDOWS[axes], stride=stride, padding=[(pad, pad) for pad in pads], **options),
        theirs(WINDOWS[axes], stride=stride, padding=padding, **counted),
        ((BATCH, 2, *SIZES[axes]),),
        **IMAGES,
    )


def global_pool(axes, kind):
    theirs = {"global_max_pool": GLOBAL_MAX, "global_average_pool": GLOBAL_AVERAGE}[kind][axes](1)
    return Case(
        named(kind, axes),
        getattr(fnn, kind)(),
        lambda x: theirs(x).reshape(x.shape[:2]),
        ((BATCH, 2, *SIZES[axes]),),
        x=channels_last,
    )


def combinations(**values):
    for chosen in itertools.product(*values.values()):
        yield dict(zip(values, chosen, strict=True))


CASES = [
    *(conv(1, **s) for s in combinations(stride=(1, 2), padding=(0, 2), dilation=(1, 3), groups=(1, 2))),
    *(conv(2, **s) for s in combinations(stride=(1, (2, 3)), padding=(0, (1, 2)), dilation=(1, (3, 2)), groups=(1, 3))),
    *(conv(3, stride=s, padding=p, dilation=d) for s, p, d in [(1, 0, 1), (2, 1, 1), (1, (1, 2, 0), (2, 1, 2))]),
    conv(3, stride=(2, 1, 3), padding=1, groups=2, bias=False),
    *(conv(axes, bias=False) for axes in (1, 2)),
    *(conv(axes, groups=5, in_size=5, out_size=5 * multiple) for axes in (1, 2) for multiple in (1, 2)),
    *(conv(axes, padding="same", dilation=dilation) for axes in (1, 2, 3) for dilation in (1, 2)),
    *(
        conv(2, lowering=lowering, stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=groups)
        for lowering in ("native", "product")
        for groups in (1, 2)
    ),
    *(
        conv_transpose(1, output_padding=stride - 1, stride=stride, **s)
        for stride in (1, 3)
        for s in combinations(padding=(0, 2), dilation=(1, 2), groups=(1, 2))
    ),
    *(
        conv_transpose(2, stride=stride, output_padding=extra, **s)
        for stride, extra in ((1, 0), ((2, 3), (1, 2)))
        for s in combinations(padding=(0, (1, 2)), dilation=(1, (1, 2)), groups=(1, 3))
    ),
    conv_transpose(2, stride=2, bias=False),
    conv_transpose(2, stride=(3, 2), padding=(2, 1)),
    conv_transpose(3),
    conv_transpose(3, stride=(2, 1, 3), padding=(1, 2, 0), output_padding=(1, 0, 2)),
    conv_transpose(3, stride=2, padding=1, output_padding=1, groups=2),
    *(pool(axes, kind) for axes in (1, 2, 3) for kind in ("max_pool", "average_pool")),
    *(pool(axes, kind, stride=1) for axes in (1, 2, 3) for kind in ("max_pool", "average_pool")),
    *(pool(axes, "max_pool", stride=DISTINCT[axes], padding=1) for axes in (1, 2, 3)),
    pool(1, "max_pool", stride=5),
    pool(2, "max_pool", stride=(3, 1), padding=(0, 1)),
    *(
        pool(axes, "average_pool", stride=DISTINCT[axes], padding=1, count_padding=counts)
        for axes in (1, 2, 3)
        for counts in (True, False)
    ),
    pool(1, "average_pool", stride=5),
    *(global_pool(axes, kind) for axes in (1, 2, 3) for kind in ("global_max_pool", "global_average_pool")),
]
