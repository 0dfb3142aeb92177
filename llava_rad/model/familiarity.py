"""Is an image like those that a model was trained on? A distance in the encoder's features, and the limit to warn at.

The features of one image are the mean and the standard deviation of its patch vectors. Their Mahalanobis distance to
the training images (Lee et al. 2018) says how unusual they are together; the covariance of the standardised features is
shrunk (Ledoit and Wolf 2004), since there are hardly more images than features. A large distance says that the model
has seen nothing of the kind, not what is wrong; a small one does not say that the report is right.
"""

from __future__ import annotations

from pathlib import Path

import torch

from encoder.errors import ModelError


class Familiarity:
    """The distance of images to a model's training images.

    Args:
        centre: [F], the mean of the training images' features.
        whitening: [F, F]; features times it have unit covariance.
        limit: distances above it are warned of.
    """

    def __init__(self, centre: torch.Tensor, whitening: torch.Tensor, limit: float) -> None:
        self.centre, self.whitening, self.limit = centre.float(), whitening.float(), limit

    @staticmethod
    def describe(patches: torch.Tensor) -> torch.Tensor:
        """[B, N, D] patch vectors as the features [B, 2 D] of the images: mean and standard deviation."""
        patches = patches.float()
        return torch.cat([patches.mean(1), patches.std(1, correction=0)], dim=1)

    @classmethod
    def fit(cls, features: torch.Tensor, held_out: torch.Tensor, false_alarms: float = 0.02) -> Familiarity:
        """Learn what is familiar. Needs scikit-learn (the extra ``probe``).

        Args:
            features: [n, F], training images.
            held_out: [m, F], images of the same kind, of other patients: they set the limit.
            false_alarms: share of them that may lie beyond it.
        """
        from sklearn.covariance import LedoitWolf

        features = features.double()
        # shrinking takes all features to one variance, so that those that vary least would hardly count
        centre, spread = features.mean(0), features.std(0, correction=0).clamp(min=1e-6)
        shrunk = LedoitWolf(assume_centered=True).fit(((features - centre) / spread).numpy())
        values, vectors = torch.linalg.eigh(torch.from_numpy(shrunk.covariance_))
        known = cls(centre, vectors / values.clamp(min=1e-12).sqrt() / spread[:, None], 0.0)
        known.limit = float(torch.quantile(known.distance(held_out), 1 - false_alarms))
        return known

    def distance(self, features: torch.Tensor) -> torch.Tensor:
        """[B] distances of features [B, F] of ``describe``."""
        distances: torch.Tensor = ((features.float() - self.centre) @ self.whitening).norm(dim=1)
        return distances

    def unfamiliar(self, patches: torch.Tensor) -> list[bool]:
        """Whether each of the images with patch vectors [B, N, D] is to be warned of."""
        return [distance > self.limit for distance in self.distance(self.describe(patches).to(self.centre)).tolist()]

    def save(self, file: Path) -> None:
        """Write ``familiarity.safetensors`` of a checkpoint."""
        from safetensors.torch import save_file

        tensors = {"centre": self.centre, "whitening": self.whitening, "limit": torch.tensor([self.limit])}
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, file)

    @classmethod
    def load(cls, file: Path, width: int, device: torch.device | str = "cpu") -> Familiarity | None:
        """What ``save`` wrote, or None where a checkpoint has no such file.

        Args:
            file: of the checkpoint.
            width: D, of the encoder.
            device: where to compute.

        Raises:
            ModelError: it is damaged or for another encoder.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if not file.is_file():
            return None
        try:
            tensors = load_file(file, device=str(device))
            known = cls(tensors["centre"], tensors["whitening"], float(tensors["limit"]))
        except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"{file.name} cannot be read ({type(error).__name__})") from error
        if known.centre.shape != (2 * width,) or known.whitening.shape != (2 * width, 2 * width):
            raise ModelError(f"{file.name} is for another encoder")
        return known
