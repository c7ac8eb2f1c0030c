"""How the embedded models were made, and how a policy or a reward is fine-tuned."""
