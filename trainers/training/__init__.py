"""What a run needs: trainer base class, resuming, random numbers, provenance, loaders, several processes."""
