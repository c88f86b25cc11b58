"""The teachers that `reproduce teachers` trains: PromptSRC on a larger CLIP, as PromptKD publishes them."""

from collections.abc import Iterator

from .grid import Job, Plan
from .protocols import ELEVEN, MINIATURE, Scope
from .setting import Setting

HOST = "PromptSRC"
FOLDER = "teachers"  # in the output folder
SEED = 1
_SHOTS = 16


class TeacherPlan(Plan):
    """The teachers of some datasets, without phase 1 and without other trainers."""

    def jobs(self, shared: Setting) -> Iterator[Job]:
        """Yield a job for each dataset and seed."""
        for dataset in self.scope.datasets:
            setting = shared.of(dataset, self.protocol)
            for seed in self.scope.seeds:
                yield Job(setting, HOST, seed, _SHOTS)


def plans(datasets: list[str] | None, seeds: list[int] | None, miniature: bool) -> list[Plan]:
    """Return the plans of all teachers.

    One for each dataset learns from its base classes, and one more from all classes of the source of cross-dataset
    transfer.

    Args:
        datasets: of both; None: the paper's eleven, or the embedded ones.
        seeds: of the draw and the training; None: 1.
        miniature: whether the embedded datasets are meant.
    """
    known = MINIATURE if miniature else ELEVEN
    chosen = datasets or known
    found = {"base2new": chosen, "few_shot": [dataset for dataset in chosen if dataset == known[0]]}
    scopes = {name: Scope(tuple(each), tuple(seeds or [SEED]), (HOST,), (_SHOTS,)) for name, each in found.items()}
    return [TeacherPlan(name, scope, []) for name, scope in scopes.items() if scope.datasets]
