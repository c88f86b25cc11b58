"""Phase 1 of CasPL: the boosting trainer, teachers, losses and the boosting-prompt file (arXiv 2409.17805)."""
