"""What a model costs, and the masks that scripts make by hand."""
