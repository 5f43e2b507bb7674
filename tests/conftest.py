"""One thread a test process: `pytest -n 2` then fills two cores without fighting over them."""

import torch

torch.set_num_threads(1)
