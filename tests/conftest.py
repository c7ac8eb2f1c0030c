"""One thread a process: what is equal to the last bit is so for one number of threads."""

import os

import torch

os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start
torch.set_num_threads(1)
