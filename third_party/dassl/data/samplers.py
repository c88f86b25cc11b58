"""The order in which a dataset's items are drawn (`cfg.DATALOADER.*.SAMPLER`)."""

from collections.abc import Sized
from typing import Any

from torch.utils.data.sampler import RandomSampler, Sampler, SequentialSampler

from dassl.utils import check_availability

_SAMPLERS: dict[str, Any] = {"RandomSampler": RandomSampler, "SequentialSampler": SequentialSampler}


def build_sampler(sampler_type: str, cfg: Any = None, data_source: Sized = (), **options: Any) -> Sampler:
    """Build the sampler of a name over `data_source`.

    Raises:
        ValueError: the name is unknown.
    """
    check_availability(sampler_type, _SAMPLERS)
    return _SAMPLERS[sampler_type](data_source)
