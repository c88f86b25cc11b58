"""`caspl report`: one page about a run, self-contained HTML."""
