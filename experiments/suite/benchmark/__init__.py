"""Speed of sampling and of training, against other implementations and the machine's limit."""
