"""The room for XLA: Relax to JAX operations to `jax.export`."""
