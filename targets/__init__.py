"""The targets that ship with Nexus: one TOML file each, read by `nexus_compiler.targets`."""
