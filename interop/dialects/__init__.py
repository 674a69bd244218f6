"""Foreign conventions, as rules to torch names and layouts: the pivot that every model's own mapping starts from."""
