"""One file an architecture. Import them through `flaxmodels` or `flaxmodels.registry`, which do so when needed."""
