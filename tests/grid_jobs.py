"""Jobs that take no time in another process: without torch, which takes seconds to import."""

import os
from dataclasses import dataclass
from pathlib import Path

BOOST = "phase 1"  # grid.BOOST


@dataclass(frozen=True)
class Prompt:
    """Stands for a setting."""

    boosting_file: Path


@dataclass(frozen=True)
class Touch:
    """Writes its process's number into the file that phase 1 writes, or beside it into one named by its own number."""

    setting: Prompt
    trainer: str
    number: int

    @property
    def needs(self):
        """See `grid.Job`."""
        return self.setting.boosting_file if self.trainer == "CasPL" else None

    def __call__(self):
        """See `grid.Job`."""
        if self.trainer == "broken":
            raise OSError("no such luck")
        file = self.setting.boosting_file
        if self.needs and not file.is_file():
            raise OSError("phase 1 is not done")
        (file if self.trainer == BOOST else file.with_name(str(self.number))).write_text(str(os.getpid()))
        return None if self.trainer == BOOST else {"number": self.number}
