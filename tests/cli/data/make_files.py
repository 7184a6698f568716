"""Makes the files of this folder: what users pass as a model by mistake. Needs torch."""

from pathlib import Path

import torch

folder = Path(__file__).parent
model = torch.nn.Linear(2, 2)
torch.save(model.state_dict(), folder / "state_dict.pt")
torch.save(model, folder / "pickled_module.pt")
