"""Fine-tuning: data, preprocessing, Trainer, metrics and the folder a run writes to."""
