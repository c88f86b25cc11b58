"""Jobs that take no time in another process: they do not import torch, which takes seconds."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

BOOST = "phase 1"  # grid.BOOST


@dataclass(frozen=True)
class Prompt:
    """In place of a setting."""

    boosting_file: Path


@dataclass(frozen=True)
class Touch:
    """Writes its process's number to the file that phase 1 writes, or to one named by its number in the same folder."""

    setting: Prompt
    trainer: str
    number: int

    @property
    def needs(self):
        """The boosting prompt, for a cascaded trainer."""
        return self.setting.boosting_file if self.trainer == "CasPL" else None

    @property
    def file(self):
        """The file that it writes."""
        file = self.setting.boosting_file
        return file if self.trainer == BOOST else file.with_name(str(self.number))

    def work(self):
        """Write the file, or fail as the trainer's name says."""
        if self.trainer == "broken":
            raise OSError("no such luck")
        if self.trainer == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.needs and not self.setting.boosting_file.is_file():
            raise OSError("phase 1 is not finished")
        self.file.write_text(str(os.getpid()))

    def outcome(self):
        """Return the result in the file; None for phase 1."""
        if not self.file.is_file():
            raise ValueError(f"{self.file.name} was not written")
        return None if self.trainer == BOOST else {"number": self.number}
