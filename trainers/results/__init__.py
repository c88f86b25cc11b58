"""What `scripts/results.py` is made of: read runs, summarise them into tables, write and draw the tables."""
