"""Turn a checkpoint into a bundle, and a bundle into plans: `compile.export_bundle` lists the stages."""
