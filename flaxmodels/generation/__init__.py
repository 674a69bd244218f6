"""Generation of text: settings, the choice of a token, and the compiled decoding loop."""
