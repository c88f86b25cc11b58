"""The paper's phase 1: the boosting trainer, its teachers, and the boosting-prompt file (arXiv 2409.17805)."""
