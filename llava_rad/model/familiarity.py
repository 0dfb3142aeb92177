"""Detection of images unlike the training images: a distance in the encoder's features, and a limit for warnings.

The features of an image are the mean and the standard deviation of its patch vectors. Their Mahalanobis distance to the
training images (Lee et al. 2018) measures how unusual they are together. The covariance of the standardised features is
shrunk (Ledoit and Wolf 2004), because there are hardly more images than features. A large distance means that the model
was trained on nothing similar; a small one does not mean that the report is right.
"""

from __future__ import annotations

from pathlib import Path

import torch

from encoder.errors import ModelError


class Familiarity:
    """Distance of images to a model's training images.

    Args:
        centre: [F], mean of the training images' features.
        whitening: [F, F], matrix that gives the features unit covariance.
        limit: distance above which an image counts as unfamiliar.
    """

    def __init__(self, centre: torch.Tensor, whitening: torch.Tensor, limit: float) -> None:
        self.centre, self.whitening, self.limit = centre.float(), whitening.float(), limit

    @staticmethod
    def describe(patches: torch.Tensor) -> torch.Tensor:
        """Reduce patch vectors [B, N, D] to the images' features [B, 2 D]: mean and standard deviation."""
        patches = patches.float()
        return torch.cat([patches.mean(1), patches.std(1, correction=0)], dim=1)

    @classmethod
    def fit(cls, features: torch.Tensor, held_out: torch.Tensor, false_alarms: float = 0.02) -> Familiarity:
        """Fit centre, whitening and limit. Needs scikit-learn (the extra ``probe``).

        Args:
            features: [n, F], features of training images.
            held_out: [m, F], features of images of the same kind, of other patients; they set the limit.
            false_alarms: share of the held-out images above the limit.
        """
        from sklearn.covariance import LedoitWolf

        features = features.double()
        # shrinking pulls all features towards one variance: without scaling, those that vary least would hardly count
        centre, spread = features.mean(0), features.std(0, correction=0).clamp(min=1e-6)
        shrunk = LedoitWolf(assume_centered=True).fit(((features - centre) / spread).numpy())
        values, vectors = torch.linalg.eigh(torch.from_numpy(shrunk.covariance_))
        known = cls(centre, vectors / values.clamp(min=1e-12).sqrt() / spread[:, None], 0.0)
        known.limit = float(torch.quantile(known.distance(held_out), 1 - false_alarms))
        return known

    def distance(self, features: torch.Tensor) -> torch.Tensor:
        """Distances [B] of features [B, F], as ``describe`` returns them."""
        distances: torch.Tensor = ((features.float() - self.centre) @ self.whitening).norm(dim=1)
        return distances

    def unfamiliar(self, patches: torch.Tensor) -> list[bool]:
        """Compare the distance of each image, given its patch vectors [B, N, D], with the limit."""
        return [distance > self.limit for distance in self.distance(self.describe(patches).to(self.centre)).tolist()]

    def save(self, file: Path) -> None:
        """Write ``familiarity.safetensors`` of a checkpoint."""
        from safetensors.torch import save_file

        tensors = {"centre": self.centre, "whitening": self.whitening, "limit": torch.tensor([self.limit])}
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, file)

    @classmethod
    def load(cls, file: Path, width: int, device: torch.device | str = "cpu") -> Familiarity | None:
        """Read the file that ``save`` wrote; None if it does not exist.

        Args:
            file: path in the checkpoint.
            width: width D of the encoder's patch vectors.
            device: device of the computation.

        Raises:
            ModelError: if it is damaged or for another encoder.
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
