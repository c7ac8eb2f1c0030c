"""Making of the embedded models, and fine-tuning of a policy or a reward."""
