"""The paper's protocols: recipes, runs, grids of runs, and their results."""
