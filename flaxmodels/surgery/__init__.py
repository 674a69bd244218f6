"""Taking a model apart and putting it together otherwise."""
