"""From a checkpoint to a bundle: `compile.export_bundle` lists the stages."""
