"""Synthetic chest radiographs with known findings: `phantom_radiograph` draws one, `layouts` write whole data sets."""

from .findings import CHEXPERT, Finding
from .patient import Patient, sample_patient
from .radiograph import Phantom, phantom_radiograph

__all__ = ["CHEXPERT", "Finding", "Patient", "Phantom", "phantom_radiograph", "sample_patient"]
