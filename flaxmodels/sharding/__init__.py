"""Which device holds which part of each parameter: rules from names to `jax.sharding.PartitionSpec`s."""
