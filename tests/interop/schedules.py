"""Writes the learning rate that each epoch trains with under the real Dassl's schedulers.

    cd CHECKOUT; python -m interop.schedules tests/golden/toolbox/lr_schedules.json OUT.json

Each schedule is also saved in the middle, and goes on from the file with a new optimiser and scheduler.
"""

import json
import sys
from pathlib import Path

import torch
from interop import drive


def rates(optim, folder):
    """The learning rate of each epoch, the second half resumed."""
    from dassl.config import get_cfg_default
    from dassl.optim import build_lr_scheduler, build_optimizer
    from dassl.utils import resume_from_checkpoint, save_checkpoint

    cfg = get_cfg_default().OPTIM
    cfg.merge_from_list([item for pair in optim.items() for item in pair])
    found = []
    for half in range(2):
        model = torch.nn.Linear(1, 1)
        optimizer = build_optimizer(model, cfg)
        scheduler = build_lr_scheduler(optimizer, cfg)
        if half:
            assert resume_from_checkpoint(folder, model, optimizer, scheduler) == len(found)
        for _ in range(len(found), cfg.MAX_EPOCH if half else cfg.MAX_EPOCH // 2):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        parts = {"state_dict": model, "optimizer": optimizer, "scheduler": scheduler}
        save_checkpoint({name: part.state_dict() for name, part in parts.items()} | {"epoch": len(found)}, folder)
    return found


if __name__ == "__main__":
    drive.prepare()
    import caspl  # noqa: F401

    schedules = json.loads(Path(sys.argv[1]).read_text())
    found = [rates(schedule["optim"], f"schedule-{number}") for number, schedule in enumerate(schedules)]
    Path(sys.argv[2]).write_text(json.dumps(found))
