"""Registry, logger, checkpoints, files, meters and other helpers."""

from .checkpoint import *  # noqa: F403
from .files import *  # noqa: F403
from .logger import *  # noqa: F403
from .meters import *  # noqa: F403
from .randomness import *  # noqa: F403
from .registry import *  # noqa: F403
from .tools import *  # noqa: F403
from .torchtools import *  # noqa: F403
