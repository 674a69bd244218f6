"""Pushing models, configurations and tokenizers to the Hugging Face Hub. Loading from it is a matter of `files`."""
