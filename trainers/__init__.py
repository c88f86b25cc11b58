"""CasPL, Cascade Prompt Learning for CLIP, as a plug-in for the Dassl toolbox family (arXiv 2409.17805).

Importing this package (here as `trainers`, installed as `caspl`) registers the trainers `CasPL` (phase 1) and
`CasPL_<Host>` (phase 2) with Dassl, and no other name.
"""

from . import compat

compat.ensure_torchvision()
compat.ensure_dassl()

from . import boosting, caspl  # noqa: E402
from .caspl import wrap  # noqa: E402
from .config import extend_cfg  # noqa: E402

__all__ = ["boosting", "caspl", "extend_cfg", "wrap"]
