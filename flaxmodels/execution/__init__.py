"""Calls of a model as a function of its parameters: what they take, its checks, and the programs they run."""
