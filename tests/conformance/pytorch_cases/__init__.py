"""Every configuration of a layer that is compared with PyTorch."""

from . import attention, basic, conv, norm, recurrent

CASES = [case for family in (basic, conv, norm, recurrent, attention) for case in family.CASES]
