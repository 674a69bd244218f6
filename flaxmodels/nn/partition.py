"""The kinds of layer that tensor parallelism tells apart."""

COLUMN, ROW, EXPERT = "column", "row", "expert"
"""A dense layer by its output features, or by its input features; an embedding by the rows of its table is `ROW`; the
parameters of a mixture of experts by experts is `EXPERT`."""
