"""The cache of a teacher's image features, rounded to float16."""

from collections.abc import Callable

from torch import Tensor

from .feature_cache import CacheError, FeatureCache, described_images

__all__ = ["CacheError", "TeacherCache", "described_images"]


class TeacherCache(FeatureCache):
    """A file of a teacher's features of N images in V views (see `FeatureCache`)."""

    title = "teacher cache"
    option = "TRAINER.CASPL.TEACHER.CACHE"

    def features(self, index: Tensor, view: int, compute: Callable[[], Tensor]) -> Tensor:
        return super().features(index, view, compute).float()
