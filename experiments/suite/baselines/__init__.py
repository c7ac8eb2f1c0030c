"""Ways to train a policy against the proxy reward: PPO, RLOO, GRPO, fine-tuning on best-of-n, published policies."""
