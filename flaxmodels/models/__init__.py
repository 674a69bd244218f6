"""One page an architecture. Import them through `flaxmodels` or `flaxmodels.registry`, which do so when needed.

The reference is transformers: a class here has the name, the numerics and, if its page says nothing else, the parameter
names of the class of that name there.
"""
