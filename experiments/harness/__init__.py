"""What all experiments share: flags, settings, training, workdirs, results, tables."""
